"""Activations straight from the network."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from polyseme.activations.reading import Reader, fitting_windows, read_windows
from polyseme.activations.schedule import Block, Schedule
from polyseme.activations.source import Rows, cut_batches
from polyseme.core.batch import SiteBatch
from polyseme.core.config import fingerprint
from polyseme.core.errors import InputError
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows


@runtime_checkable
class Harvest(Protocol):
    """What a source must know of how a network is read; see `HarvestConfig`."""

    @property
    def block_tokens(self) -> int: ...

    @property
    def batch_windows(self) -> int | None: ...

    @property
    def shard_dtype(self) -> Literal["float32", "float16"]: ...

    @property
    def prefetches(self) -> bool: ...

    @property
    def seed(self) -> int: ...


class LiveSource:
    """Runs the network over blocks of windows as they are needed, all sites in one pass.

    Args:
        network: what is read.
        windows: the tokens.
        sites: name to site.
        config: sizes and seed.

    Attributes:
        batch_windows: windows a forward pass, decided.

    Raises:
        InputError: no site, or no token that counts.
    """

    def __init__(self, network: Reader, windows: Windows, sites: Mapping[str, Site], config: Harvest):
        if not sites:
            raise InputError("there is no site to harvest", where="sites", fix="name at least one")
        if windows.n_tokens == 0:
            raise InputError("the windows hold no token that counts", where="windows", fix="give a larger corpus")
        self.network, self.windows, self.config = network, windows, config
        self.sites = tuple(sites)
        self.widths = {name: network.width(site) for name, site in sites.items()}
        self.n_tokens = windows.n_tokens
        self._sites = dict(sites)
        self.batch_windows = config.batch_windows or fitting_windows(
            network, windows, self._sites.values(), config.block_tokens
        )
        order = np.random.default_rng(derive_seed(config.seed, "windows")).permutation(len(windows))
        self._groups = [order[i : i + self.batch_windows] for i in range(0, len(order), self.batch_windows)]
        self.schedule = _schedule(windows, self._groups, config, self.batch_windows)
        self.fingerprint = fingerprint(
            {
                "network": network.fingerprint,
                "windows": windows.fingerprint,
                "sites": [[name, site.model_dump(mode="json")] for name, site in sites.items()],
                "batch_windows": self.batch_windows,
                "block_groups": self.schedule.groups_per_block,
                "seed": config.seed,
            }
        )

    @property
    def _device(self) -> torch.device:
        return getattr(self.network, "device", torch.device("cpu"))

    def room(self) -> Rows:
        """A buffer for a block, where the network's vectors are."""
        return Rows.empty(self.schedule.capacity, self.widths, self._device)

    def load(self, block: Block, rows: Rows, advance: Callable[[int], None] | None = None) -> None:
        """Run the network over a block's groups and fill `rows` in their order.

        Args:
            block: which groups.
            rows: room for them, at least `block.n_rows`.
            advance: receives, after each pass, the number of tokens it read.
        """
        at = 0
        for group in block.groups:
            chosen = self._groups[int(group)]
            for reading in read_windows(
                self.network, self.windows, list(self._sites.values()), batch_windows=len(chosen), rows=chosen
            ):
                end = at + len(reading)
                for name, site in self._sites.items():
                    rows.acts[name][at:end] = reading.vectors[site]
                ids = np.stack([reading.token, reading.document, reading.position])
                rows.ids[:, at:end] = torch.from_numpy(ids)
                at = end
                if advance is not None:
                    advance(len(reading))
        assert at == block.n_rows

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """As in `ActivationSource`."""
        return cut_batches(
            self.schedule,
            self.load,
            self.room,
            batch_size=batch_size,
            start=start,
            stop=stop,
            prefetch=self.config.prefetches,
        )


def _schedule(windows: Windows, groups: list[Int[np.ndarray, " _"]], config: Harvest, batch_windows: int) -> Schedule:
    counted = (~windows.special).sum(1)
    group_rows = np.array([int(counted[group].sum()) for group in groups], dtype=np.int64)
    context = windows.tokens.shape[1]
    per_block = max(1, config.block_tokens // (context * batch_windows))
    return Schedule(group_rows, per_block, config.seed)
