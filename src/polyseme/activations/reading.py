"""Reading a network at the counted tokens of windows: the one loop that harvest, statistics and firings share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.activations.massive import Ordinary, ordinary_rows
from polyseme.core.batch import joined
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.corpora.pack import PADDING, Windows
from polyseme.networks.survey import all_finite

# Bytes of the widest tensor of a pass, and tokens, that a pass should not exceed: on the CPU and elsewhere. On the CPU
# below the 32 MiB above which glibc maps every block, and faults every page of it, afresh.
_ON_CPU = 16 * 2**20, 2048
_ELSEWHERE = 256 * 2**20, 16_384


@runtime_checkable
class Reader(Protocol):
    """What harvesting needs of a network; `polyseme.networks.Network` is one."""

    @property
    def fingerprint(self) -> str:
        """Changes when the weights or the code that runs them do."""
        ...

    @property
    def causal(self) -> bool:
        """True when a position never sees a later one, so that padding at the end changes nothing."""
        ...

    def width(self, site: Site) -> int:
        """Size of the site's vectors."""
        ...

    def read(self, inputs: Any, sites: Sequence[Site]) -> Mapping[Site, Tensor]:
        """The vectors `[batch, position, d]` of every site, from one forward pass; several threads may ask."""
        ...


@dataclass(frozen=True)
class Reading:
    """The counted tokens of a few windows, in window order, with every site's vectors.

    Attributes:
        vectors: site to vectors, on the network's device and in its precision.
        token: token ids.
        document: index into `Windows.names`.
        window: row in `Windows`.
        position: column in the row.
    """

    vectors: dict[Site, Float[Tensor, "token _"]]
    token: Int[np.ndarray, " token"]
    document: Int[np.ndarray, " token"]
    window: Int[np.ndarray, " token"]
    position: Int[np.ndarray, " token"]

    def __len__(self) -> int:
        return len(self.token)

    def at(self, sites: Sequence[Site]) -> Float[Tensor, "token d"]:
        """The vectors of some sites side by side; those of a single site themselves."""
        return joined(sites, self.vectors)

    def ordinary(self, sites: Iterable[Site], ordinary: Mapping[Site, Ordinary]) -> Bool[Tensor, " token"] | None:
        """Which tokens are ordinary at all of some sites; None where no site has a rule (`ordinary_rows`)."""
        return ordinary_rows(sites, self.vectors, torch.from_numpy(self.position), ordinary)


def read_windows(
    network: Reader,
    windows: Windows,
    sites: Sequence[Site],
    *,
    batch_windows: int,
    rows: Int[np.ndarray, " row"] | None = None,
) -> Iterator[Reading]:
    """Run the network over windows, a few at a time, and yield the vectors of every token that counts.

    Special tokens and padding are run (the others attend to them) and left out of what comes back.

    Args:
        network: read in one pass for all sites.
        windows: the tokens.
        sites: where to read; a site named twice is read once.
        batch_windows: windows a forward pass.
        rows: which windows, in which order; all of them by default.

    Raises:
        InputError: a site gives something else than one vector a token, or vectors that are not finite.
    """
    wanted = list(dict.fromkeys(sites))
    rows = np.arange(len(windows)) if rows is None else rows
    for start in range(0, len(rows), batch_windows):
        chosen = rows[start : start + batch_windows]
        counted = ~windows.special[chosen]
        row, column = counted.nonzero()
        picked = torch.from_numpy(np.flatnonzero(counted.reshape(-1)))
        read = _read(network, windows, chosen, wanted)
        vectors = {site: v.flatten(0, 1).index_select(0, picked.to(v.device)) for site, v in read.items()}
        yield Reading(
            vectors=vectors,
            token=windows.tokens[chosen][row, column].astype(np.int32),
            document=windows.document[chosen][row, column].astype(np.int32),
            window=chosen[row].astype(np.int32),
            position=column.astype(np.int32),
        )


def pass_limits(network: Reader) -> tuple[int, int]:
    """Bytes of the widest tensor of a pass, and tokens, that a pass should not exceed where the network is."""
    device: torch.device = getattr(network, "device", torch.device("cpu"))
    return _ON_CPU if device.type == "cpu" else _ELSEWHERE


def fitting_windows(network: Reader, windows: Windows, sites: Iterable[Site], most_tokens: int | None = None) -> int:
    """Windows a pass, a power of two: few of a wide network, so that the memory and the time of one pass are bounded.

    It follows from sizes alone, never from timing: a run and its resume must make the same choice, because a window's
    vectors differ in the last bits with the windows beside it, and the order of tokens with the size of groups.

    Args:
        network: what is read.
        windows: whose length counts.
        sites: where it is read.
        most_tokens: a further bound.
    """
    bytes_of_pass, tokens = pass_limits(network)
    # An MLP's hidden layer is four times as wide as the stream in most networks that do not say.
    row_bytes: int = getattr(network, "row_bytes", None) or 16 * max(network.width(site) for site in sites)
    tokens = min(tokens, bytes_of_pass // row_bytes, most_tokens or tokens)
    return 1 << max(0, (tokens // windows.tokens.shape[1]).bit_length() - 1)


def _read(network: Reader, windows: Windows, chosen: Int[np.ndarray, " row"], sites: list[Site]) -> dict[Site, Tensor]:
    """`[batch, position, d]` of every site; a network that looks ahead never sees padding."""
    tokens = torch.from_numpy(windows.tokens[chosen].astype(np.int64))
    lengths = (windows.document[chosen] != PADDING).sum(1)
    if network.causal or (lengths == tokens.shape[1]).all():
        return _checked(network.read(tokens, sites), tokens)
    whole: dict[Site, Tensor] = {}
    for length in np.unique(lengths):
        alike = torch.from_numpy(np.flatnonzero(lengths == length))
        cut = tokens[alike, :length]
        for site, vectors in _checked(network.read(cut, sites), cut).items():
            if site not in whole:
                whole[site] = vectors.new_zeros(*tokens.shape, vectors.shape[-1])
            whole[site][alike, :length] = vectors
    return whole


def _checked(read: Mapping[Site, Tensor], tokens: Tensor) -> dict[Site, Tensor]:
    for site, vectors in read.items():
        if vectors.ndim != 3 or vectors.shape[:2] != tokens.shape:
            raise InputError(
                f"the site gives {list(vectors.shape)} for tokens {list(tokens.shape)}: not one vector a token",
                where=str(site),
                fix="choose a site whose output is [batch, position, d]",
            )
        if not all_finite(vectors):
            raise InputError(
                "the network gives vectors that are not finite",
                where=str(site),
                fix='check its weights, or load it with `dtype = "float32"`',
            )
    return dict(read)
