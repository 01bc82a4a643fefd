"""Activations harvested once to checksummed, memory-mapped shards.

    harvest.json                what was harvested, and the shape of the schedule
    shard-00000.site0.npy       vectors of the first site at the tokens of the first block, `[row, d]`
    shard-00000.ids.npy         token, document and position of those rows, int32 `[3, row]`
    shard-00000.json            written last: sizes and checksums of the shard's files

A shard whose `.json` is there was whole once. Sizes are checked when the folder is opened and checksums when a shard
is first read; what fails is made again from the network, or refused.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError

from polyseme.activations.live import Harvest, LiveSource
from polyseme.activations.reading import Reader
from polyseme.activations.schedule import Block, Schedule
from polyseme.activations.source import Advance, Rows, cut_batches
from polyseme.core.batch import SiteBatch
from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.kernels.shield import shielded
from polyseme.store import FileRecord, load_array, load_record, save_array, save_record
from polyseme.store.failures import check_space, refusals
from polyseme.store.files import remove, remove_temporaries

_HARVEST = "harvest.json"
_AGAIN = "harvest again into the same folder: what is whole is kept"


class HarvestRecord(Record):
    """What a folder of shards holds."""

    version: int = 1
    source: str
    """Fingerprint of network, windows, sites, order and precision."""
    widths: dict[str, int]
    """Site name to vector size, in the order of the files."""
    dtype: Literal["float32", "float16"]
    group_rows: tuple[int, ...]
    """Tokens that count, of each group of windows."""
    groups_per_block: int
    seed: int

    def schedule(self) -> Schedule:
        """The order in which tokens come."""
        return Schedule(np.array(self.group_rows, dtype=np.int64), self.groups_per_block, self.seed)


class _ShardRecord(Record):
    harvest: str
    files: dict[str, FileRecord]


@shielded
def harvest_to_disk(
    network: Reader,
    windows: Windows,
    sites: Mapping[str, Site],
    config: Harvest,
    folder: Path,
    *,
    reporter: Reporter | None = None,
) -> "DiskSource":
    """Read every site at every counted token once and keep the vectors in `folder`, a shard a block and site.

    Whole shards found there are kept, so a killed harvest is resumed, and a damaged `harvest.json` is written again.
    One process at a time.

    Args:
        network: what is read.
        windows: the tokens.
        sites: name to site.
        config: sizes, precision and seed.
        folder: made when missing.
        reporter: receives the number of tokens done.

    Raises:
        DamagedArtifact: the folder holds another harvest.
        InputError: the disk has too little room, or a vector does not fit float16.
    """
    live = LiveSource(network, windows, sites, config)
    record = _describe(live)
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(folder)
    _claim(folder, record)
    shards = _Shards(folder, record)
    missing = [block for block in record.schedule().blocks(0) if shards.problem(block.index) is not None]
    shards.check_space(missing)
    done = live.n_tokens - sum(block.n_rows for block in missing)
    progress = (reporter or Silent()).task("harvest", live.n_tokens, "tokens")
    progress.update(done)
    rows = live.room() if missing else None

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress.update(done)

    for block in missing:
        assert rows is not None
        shards.make(live, block, rows, advance)
    return DiskSource(folder, live=live, reporter=reporter)


class DiskSource:
    """Batches from a folder of shards; in float32 bit for bit those of the live source.

    A block's rows are copied out of the mapped files, so that memory stays at a block whatever the harvest's size.

    Args:
        folder: written by `harvest_to_disk`.
        live: the source it was harvested from, to make damaged shards again; None to refuse them.
        prefetch: copy the next block in a background thread; by default as `live` would, else not.
        reporter: receives a message for each shard made again.

    Raises:
        DamagedArtifact: the record or a shard is missing or cut short, and there is no `live`; or the folder was not
            harvested from `live`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        live: LiveSource | None = None,
        prefetch: bool | None = None,
        reporter: Reporter | None = None,
    ):
        self._record = _read_record(folder)
        if live is not None:
            _same(folder, self._record, _describe(live))
        self._live = live
        self._shards = _Shards(folder, self._record)
        self._schedule = self._record.schedule()
        self._prefetch = (live.config.prefetches if live else False) if prefetch is None else prefetch
        self._reporter = reporter or Silent()
        self._verified: set[int] = set()
        self._blocks = self._schedule.blocks(0)
        # Where each group lies: the first epoch's blocks are the shards.
        self._shard_of = np.concatenate([np.full(len(b.groups), b.index) for b in self._blocks])
        starts = [
            np.cumsum(self._schedule.group_rows[b.groups]) - self._schedule.group_rows[b.groups] for b in self._blocks
        ]
        self._start_of = np.concatenate(starts)
        self.sites = tuple(self._record.widths)
        self.widths = dict(self._record.widths)
        self.n_tokens = self._schedule.n_rows
        self.fingerprint = self._record.source
        for block in self._blocks:
            if (problem := self._shards.problem(block.index)) is not None:
                self._make_again(block, problem)

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """As in `ActivationSource`, on the CPU.

        Raises:
            DamagedArtifact: a shard fails its checksum and there is no live source to make it again.
        """
        return cut_batches(
            self._schedule,
            self._load,
            lambda: Rows.empty(self._schedule.capacity, self.widths, torch.device("cpu")),
            batch_size=batch_size,
            start=start,
            stop=stop,
            prefetch=self._prefetch,
        )

    def _load(self, block: Block, rows: Rows, _: Advance) -> None:
        ends = np.cumsum(self._schedule.group_rows[block.groups])
        shard_of = self._shard_of[block.groups]
        for shard in np.unique(shard_of):
            self._verify(int(shard))
            vectors, ids = self._shards.open(int(shard), self._blocks[shard].n_rows)
            for i in np.flatnonzero(shard_of == shard):
                group = block.groups[i]
                n = int(self._schedule.group_rows[group])
                source = slice(int(self._start_of[group]), int(self._start_of[group]) + n)
                target = slice(int(ends[i]) - n, int(ends[i]))
                for site, kept in vectors.items():
                    rows.acts[site].numpy()[target] = kept[source]
                rows.ids.numpy()[:, target] = ids[:, source]

    def _verify(self, shard: int) -> None:
        if shard in self._verified:
            return
        if (problem := self._shards.problem(shard, checksums=True)) is not None:
            self._make_again(self._blocks[shard], problem)
        self._verified.add(shard)

    def _make_again(self, block: Block, problem: str) -> None:
        where = str(self._shards.folder / f"shard-{block.index:05d}")
        if self._live is None:
            raise DamagedArtifact(f"a shard of activations is damaged: {problem}", where=where, fix=_AGAIN)
        self._reporter.message(f"activations: {problem} ({where}); making this shard again")
        self._shards.make(self._live, block, self._live.room())


class _Shards:
    """The files of a harvest's shards."""

    def __init__(self, folder: Path, record: HarvestRecord):
        self.folder, self.record = folder, record

    def _names(self, shard: int) -> list[str]:
        sites = [f"shard-{shard:05d}.site{i}.npy" for i in range(len(self.record.widths))]
        return [*sites, f"shard-{shard:05d}.ids.npy"]

    def _record_path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.json"

    def problem(self, shard: int, *, checksums: bool = False) -> str | None:
        """What is wrong with a shard's files, None when nothing is."""
        path = self._record_path(shard)
        if not path.is_file():
            return f"{path.name} is missing"
        try:
            record = _ShardRecord.model_validate(load_record(path))
        except (ValidationError, DamagedArtifact):
            return f"{path.name} is not the record it should be"
        if record.harvest != self.record.source or set(record.files) != set(self._names(shard)):
            return f"{path.name} is of another harvest"
        found = (file.problem(self.folder / name, checksum=checksums) for name, file in record.files.items())
        return next(filter(None, found), None)

    def make(self, live: LiveSource, block: Block, rows: Rows, advance: Callable[[int], None] | None = None) -> None:
        """Harvest a block of the first epoch and write its files, the record last; what stands there goes first."""
        *names, ids = self._names(block.index)
        for path in (self._record_path(block.index), *(self.folder / name for name in (*names, ids))):
            remove(path)
        live.load(block, rows, advance)
        for name, (site, vectors) in zip(names, rows.acts.items(), strict=True):
            with np.errstate(over="ignore"):
                array = vectors[: block.n_rows].cpu().numpy().astype(self.record.dtype, copy=False)
            if self.record.dtype == "float16" and not np.isfinite(array).all():
                raise InputError(
                    f"a vector of site {site!r} does not fit float16: it has an entry of "
                    f"{vectors[: block.n_rows].abs().max():.3g}",
                    where="harvest.shard_dtype",
                    fix='set `shard_dtype = "float32"`',
                )
            save_array(self.folder / name, array)
        save_array(self.folder / ids, rows.ids[:, : block.n_rows].cpu().numpy().astype(np.int32))
        files = {name: FileRecord.of(self.folder / name) for name in (*names, ids)}
        save_record(self._record_path(block.index), _ShardRecord(harvest=self.record.source, files=files))

    def open(self, shard: int, n_rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """A shard's vectors by site and its ids, mapped; they are unmapped when the caller drops them."""
        *names, ids = (load_array(self.folder / name) for name in self._names(shard))
        vectors = dict(zip(self.record.widths, names, strict=True))
        shapes = [(n_rows, width) for width in self.record.widths.values()]
        if [v.shape for v in names] != shapes or ids.shape != (3, n_rows):
            raise DamagedArtifact(
                f"shard {shard} has another shape than its record", where=str(self.folder), fix=_AGAIN
            )
        return vectors, ids

    def check_space(self, blocks: list[Block]) -> None:
        """Raise where the disk has no room for the shards of `blocks`."""
        a_row = sum(self.record.widths.values()) * np.dtype(self.record.dtype).itemsize + 3 * 4
        needed = sum(block.n_rows for block in blocks) * a_row + len(blocks) * 4096
        check_space(self.folder, needed, "ask for fewer tokens, set `shard_dtype` to float16 or `cache` to stream")


def _describe(live: LiveSource) -> HarvestRecord:
    dtype = live.config.shard_dtype
    return HarvestRecord(
        source=live.fingerprint if dtype == "float32" else fingerprint({"of": live.fingerprint, "dtype": dtype}),
        widths=live.widths,
        dtype=dtype,
        group_rows=tuple(int(n) for n in live.schedule.group_rows),
        groups_per_block=live.schedule.groups_per_block,
        seed=live.schedule.seed,
    )


def _claim(folder: Path, record: HarvestRecord) -> None:
    try:
        found = _read_record(folder)
    except DamagedArtifact:  # a new folder, or one whose shards say themselves what they are of
        remove(folder / _HARVEST)
        save_record(folder / _HARVEST, record)
    else:
        _same(folder, found, record)


def _read_record(folder: Path) -> HarvestRecord:
    try:
        record = HarvestRecord.model_validate(load_record(folder / _HARVEST))
        if sum(record.group_rows) < 1 or min(record.group_rows) < 0 or record.groups_per_block < 1:
            raise ValueError("it holds no token")
    except (ValidationError, ValueError) as error:
        raise DamagedArtifact(
            f"the record of the harvest cannot be read ({error})", where=str(folder / _HARVEST), fix=_AGAIN
        ) from error
    return record


def _same(folder: Path, found: HarvestRecord, wanted: HarvestRecord) -> None:
    if found != wanted:
        raise DamagedArtifact(
            "the folder holds the activations of another harvest (other network, tokens, sites, sizes or seed)",
            where=str(folder),
            fix="give another folder, or delete this one",
        )
