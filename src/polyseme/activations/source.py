"""Sources of activation batches, and the one way batches are cut whatever the vectors come from."""

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.activations.schedule import Block, Schedule
from polyseme.core.batch import SiteBatch
from polyseme.core.errors import InputError


@runtime_checkable
class ActivationSource(Protocol):
    """Batches of every site's vectors: from a live network, a cache on disk, or memory.

    Attributes:
        sites: names of the sites, the keys of `SiteBatch.acts`.
        widths: each site's vector size.
        n_tokens: distinct tokens; after them, the source repeats them in a new order.
        fingerprint: equal fingerprints give equal batches.
    """

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def widths(self) -> dict[str, int]: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """Batches `start`, `start + 1`, … before `stop` (endless without), each of `batch_size` rows in float32.

        Batch b is a pure function of the source, `batch_size` and b: it does not depend on where one starts.
        """
        ...


Advance = Callable[[int], None]
"""Receives the number of rows added while a block is loaded; what it raises ends the loading."""


@dataclass(frozen=True)
class Rows:
    """Room for one block, used over and over.

    Attributes:
        acts: site name to vectors, float32.
        ids: token, document and position of each row.
    """

    acts: dict[str, Float[Tensor, "row _"]]
    ids: Int[Tensor, "3 row"]

    @classmethod
    def empty(cls, n_rows: int, widths: Mapping[str, int], device: torch.device) -> "Rows":
        """Room for `n_rows` rows."""
        acts = {site: torch.empty(n_rows, width, dtype=torch.float32, device=device) for site, width in widths.items()}
        return cls(acts, torch.empty(3, n_rows, dtype=torch.int64, device=device))

    def gather(self, index: Int[Tensor, " row"]) -> SiteBatch:
        """Copies of the rows at `index`."""
        index = index.to(self.ids.device)
        token, document, position = self.ids.index_select(1, index)
        return SiteBatch({site: v.index_select(0, index) for site, v in self.acts.items()}, token, document, position)


def cut_batches(
    schedule: Schedule,
    load: Callable[[Block, Rows, Advance], None],
    room: Callable[[], Rows],
    *,
    batch_size: int,
    start: int,
    stop: int | None,
    prefetch: bool,
) -> Iterator[SiteBatch]:
    """Cut the endless order of a schedule into batches.

    At most one block and one batch are held (two blocks with `prefetch`).

    Args:
        schedule: the order.
        load: fills a block's rows, in the order of its groups, and reports its progress now and then.
        room: makes the buffer for a block.
        batch_size: rows a batch.
        start: first batch.
        stop: batch to stop before, or None.
        prefetch: load the next block in a background thread; the batches are the same. One that nobody waits for any
            more is given up where its loading next reports its progress.
    """
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size} rows", where="batch_size", fix="ask for at least one row")
    if stop is not None and stop <= start:
        return
    blocks = schedule.walk(start * batch_size, None if stop is None else stop * batch_size)
    parts: list[SiteBatch] = []
    missing, at = batch_size, start
    loaded = _loaded_ahead(blocks, load, room) if prefetch else _loaded(blocks, load, room)
    with closing(loaded):
        for block, rows in loaded:
            order = schedule.permutation(block)[block.skip :]
            while len(order):
                taken, order = order[:missing], order[missing:]
                parts.append(rows.gather(taken))
                missing -= len(taken)
                if missing:
                    continue
                yield _joined(parts)
                parts, missing, at = [], batch_size, at + 1
                if at == stop:
                    return


def _joined(parts: list[SiteBatch]) -> SiteBatch:
    if len(parts) == 1:
        return parts[0]
    acts = {site: torch.cat([part.acts[site] for part in parts]) for site in parts[0].acts}
    token, document, position = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("token", "document", "position")
    )
    return SiteBatch(acts, token, document, position)


def _loaded(
    blocks: Iterator[Block], load: Callable[[Block, Rows, Advance], None], room: Callable[[], Rows]
) -> Generator[tuple[Block, Rows], None, None]:
    rows = room()
    for block in blocks:
        load(block, rows, lambda _: None)
        yield block, rows


def _loaded_ahead(
    blocks: Iterator[Block], load: Callable[[Block, Rows, Advance], None], room: Callable[[], Rows]
) -> Generator[tuple[Block, Rows], None, None]:
    stopped = Event()

    def go_on(_: int) -> None:
        if stopped.is_set():
            raise CancelledError

    def fill(block: Block, rows: Rows) -> tuple[Block, Rows]:
        load(block, rows, go_on)
        return block, rows

    spare = [room(), room()]
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="polyseme-prefetch")
    try:
        upcoming = next(blocks, None)
        future = pool.submit(fill, upcoming, spare[0]) if upcoming else None
        while future is not None:
            ready = future.result()
            upcoming = next(blocks, None)
            # The consumer is done with the other buffer: it asks for this block only then.
            spare.reverse()
            future = pool.submit(fill, upcoming, spare[0]) if upcoming else None
            yield ready
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
