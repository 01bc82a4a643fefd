"""How activations are harvested."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from polyseme.activations.disk import harvest_to_disk
from polyseme.activations.live import LiveSource
from polyseme.activations.reading import Reader
from polyseme.activations.source import ActivationSource
from polyseme.core.config import Config, PassWindows, Seed
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows


class HarvestConfig(Config):
    """The order in which tokens are read, and whether the vectors are kept on disk.

    BOS, separators and padding are run through the network, and their vectors are left out.
    """

    block_tokens: int = Field(default=65_536, ge=1, le=2**28)
    """Size of the shuffle buffer: the vectors of at most this many tokens (and of at least one batch of windows) are
    held and mixed at a time."""
    batch_windows: PassWindows | None = None
    """Number of windows in a forward pass; None chooses it by the width of the network and the length of a window."""
    cache: Literal["stream", "disk"] = "stream"
    """`stream` runs the network whenever vectors are needed; `disk` runs it once and keeps them in files."""
    shard_dtype: Literal["float32", "float16"] = "float32"
    """Precision of the files; `float16` halves their size, and batches are no longer bit-identical to streaming."""
    prefetch: bool | None = None
    """Whether the next block is prepared in the background, which takes twice the memory; None does so on more than two
    cores."""
    seed: Seed = 0
    """Seed for the order of windows and tokens."""

    @property
    def prefetches(self) -> bool:
        """`prefetch`, decided."""
        return (os.cpu_count() or 1) > 2 if self.prefetch is None else self.prefetch

    def build(
        self,
        network: Reader,
        windows: Windows,
        sites: Mapping[str, Site],
        *,
        folder: Path | None = None,
        reporter: Reporter | None = None,
    ) -> ActivationSource:
        """The source: live, or harvested to `folder` first (only what is missing there)."""
        if self.cache == "stream":
            return LiveSource(network, windows, sites, self)
        if folder is None:
            raise InputError("a disk cache needs a folder", where="harvest.cache", fix="give `folder`")
        return harvest_to_disk(network, windows, sites, self, folder, reporter=reporter)
