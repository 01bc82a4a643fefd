"""Controls: the same study on a null, one null a file.

To add one: a file with a `Config` that is a `Control`, and its line in this table.
"""

from typing import Annotated

from pydantic import Discriminator, TypeAdapter

from polyseme.controls.gaussian import GaussianReinit
from polyseme.controls.permuted import PermutedWeights
from polyseme.controls.protocol import Control
from polyseme.controls.shuffled_tokens import ShuffledTokens
from polyseme.controls.spectrum import SpectrumReinit
from polyseme.controls.unigram_tokens import UnigramTokens

ControlConfig = Annotated[
    GaussianReinit | SpectrumReinit | PermutedWeights | ShuffledTokens | UnigramTokens,
    Discriminator("kind"),
]
CONTROLS: tuple[type[Control], ...] = (
    GaussianReinit,
    SpectrumReinit,
    PermutedWeights,
    ShuffledTokens,
    UnigramTokens,
)


def make_control(kind: str, seed: int = 0) -> Control:
    """A control of the table by its kind, with its defaults."""
    return TypeAdapter[Control](ControlConfig).validate_python({"kind": kind, "seed": seed})


__all__ = ["CONTROLS", "Control", "ControlConfig", "make_control"]
