"""What a diagnosis may spend, and where its thresholds stand."""

import math
from typing import Annotated, Literal, get_args

from pydantic import Field

from polyseme.core.config import Config, Resamples, Seed, Width

Answer = Literal[
    "aligned",
    "superposition",
    "rotated",
    "correlated",
    "incidental",
    "non_linear",
    "compositional",
    "none",
    "abstain",
]
"""Why neurons of a site answer to several features; `aligned` where they do not, `abstain` where nothing is shown."""
ANSWERS: tuple[Answer, ...] = get_args(Answer)
"""In the order in which tables show them."""


class DiagnosisConfig(Config):
    """Sampling and thresholds of a diagnosis. Thresholds are effects, and each is compared with an interval."""

    seed: Seed = 0
    """Seed of every random draw: equal seeds give equal diagnoses."""
    max_rows: Width = 4096
    """Most rows of data taken."""
    min_rows: Width = 256
    """Fewer rows than this are refused; so are, where the data have no variables, fewer than four vectors a neuron."""
    n_contrasts: int = Field(default=512, ge=16, le=2**20)
    """Most rows on which each input variable is switched off to see what it writes; fewer at a wide site."""
    n_resamples: Annotated[Resamples, Field(ge=20)] = 100
    """Bootstrap replicates of an interval."""
    n_null: int = Field(default=400, ge=200, le=100_000)
    """Draws of a null of directions; more are taken where so few could not reach `alpha`."""
    alpha: float = Field(default=0.02, ge=0.01, lt=1)
    """Level of each test against its null."""
    represented: float = Field(default=0.3, gt=0, lt=1)
    """A variable counts as a feature of the site where a typical value of it writes at least this share of the largest
    one's norm."""
    rank_floor: float = Field(default=0.1, gt=0, lt=1)
    """A dimension counts as used where its singular value is at least this share of the largest."""
    pure: float = Field(default=0.9, gt=0.5, lt=1)
    """Share of a neuron's response that one feature must make for the neuron to be called monosemantic."""
    margin: float = Field(default=0.1, gt=0, lt=1)
    """Least gap between two read-outs (R²) that counts."""

    def draws(self, wanted: int, *, tests: int = 1) -> int:
        """Draws of a null that let a test be passed: with n of them p is 1 / (n + 1) at least, times `tests` tried."""
        return max(wanted, math.ceil(round(tests / self.alpha, 9)))
