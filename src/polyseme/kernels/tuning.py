"""What decides how a step and a selection are carried out, and never what they compute."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from polyseme.kernels import library as native


def spans(n: int, length: int, start: int = 0) -> Iterator[slice]:
    """Slices of start..n, each that long; the last may be shorter."""
    return (slice(first, min(n, first + length)) for first in range(start, n, length))


@dataclass(frozen=True)
class Tuning:
    """Sizes and shares, measured on CPUs and GPUs; a dictionary is built with one, and all its operations use it.

    Attributes:
        tile_bytes: the largest temporary: glibc hands blocks under 32 MiB out again without page faults, and a tile
            stays near the cache.
        cached_bytes: rows that are gathered again and again: they stay in a core's second-level cache, where a gather
            is three to four times as fast as from the third (measured with rows of 2 KiB).
        block: rows and latents of a block: as fast as the product of all at once, and still in cache when it is looked
            through.
        large_block: numbers of a block on a GPU, of all rows there are: launches cost more than memory there.
        least_rows: rows of a tile: with fewer a wide encoder's weights, read once a tile, take longer to read than to
            multiply.
        max_density: the share of active latents above which dense products take as long as gathering entry by entry
            (from 0.2 on), or little longer, and less memory.
        max_dead_density: the same for AuxK's share of the dead latents; it is more, for the k largest of a row are
            found faster while they come block by block than in a tile.
        most_entries: entries of a piece of the batch, on a CPU: a step keeps some sixty bytes an entry, and every piece
            reads and writes all gradients.
        many: times as many entries as BatchTopK wants are no longer worth a sort, nor their memory.
        sample: rows that show whether products of bytes prove anything.
        loops: False to go by torch's operations where the compiled loops are there, too.
    """

    tile_bytes: int = 16 * 2**20
    cached_bytes: int = 2**20
    block: tuple[int, int] = (1024, 512)
    large_block: int = 2**25
    least_rows: int = 256
    max_density: float = 0.15
    max_dead_density: float = 0.25
    most_entries: int = 2**18
    many: int = 4
    sample: int = 192
    loops: bool = True

    def tiles(self, n: int, row_bytes: int, *, least: int = 1) -> Iterator[slice]:
        """Slices of 0..n whose rows fill at most `tile_bytes`, or are `least`."""
        return spans(n, max(1, least, self.tile_bytes // max(1, row_bytes)))

    def tiles_of(self, rows: Float[Tensor, "n d"], share: int = 1) -> Iterator[slice]:
        """Slices of those rows that fill at most a `share`-th of a tile."""
        return self.tiles(len(rows), share * rows.shape[1] * rows.element_size())

    def in_loops(self, *tensors: Tensor) -> bool:
        """Whether the compiled loops work on these."""
        return self.loops and native.usable(*tensors)


DEFAULT = Tuning()
