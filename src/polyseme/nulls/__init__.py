"""Nulls: things made random, one null a file, with what each keeps and destroys.

To add one: a file with a `Null` of one of the families (weights, tokens), and its line in this table.
"""

from typing import Annotated

from pydantic import Discriminator, TypeAdapter

from polyseme.core.progress import Reporter
from polyseme.corpora import Windows
from polyseme.networks import Network
from polyseme.nulls.gaussian import GaussianReinit
from polyseme.nulls.permuted import PermutedWeights
from polyseme.nulls.protocol import Null, kind_of
from polyseme.nulls.shuffled_tokens import ShuffledTokens
from polyseme.nulls.spectrum import SpectrumReinit
from polyseme.nulls.tokens import TokenNull
from polyseme.nulls.uniform_tokens import UniformTokens
from polyseme.nulls.unigram_tokens import UnigramTokens
from polyseme.nulls.weights import WeightNull

NullConfig = Annotated[
    GaussianReinit | SpectrumReinit | PermutedWeights | ShuffledTokens | UnigramTokens | UniformTokens,
    Discriminator("kind"),
]
NULLS: tuple[type[Null], ...] = (
    GaussianReinit,
    SpectrumReinit,
    PermutedWeights,
    ShuffledTokens,
    UnigramTokens,
    UniformTokens,
)


def make_null(kind: str, seed: int = 0) -> Null:
    """A null of the table by its kind, with its defaults."""
    return TypeAdapter[Null](NullConfig).validate_python({"kind": kind, "seed": seed})


def on_network(null: Null | None, network: Network, reporter: Reporter | None = None) -> Network:
    """The network under a null; the same object where the null is of something else."""
    return null.redraw(network, reporter) if isinstance(null, WeightNull) else network


def on_windows(null: Null | None, windows: Windows, vocabulary: int) -> Windows:
    """Windows under a null; the same object where the null is of something else."""
    return null.replace(windows, vocabulary) if isinstance(null, TokenNull) else windows


__all__ = ["NULLS", "Null", "NullConfig", "kind_of", "make_null", "on_network", "on_windows"]
