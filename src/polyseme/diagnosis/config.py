"""How much a diagnosis may compute, and its thresholds."""

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
"""The answers, in the order in which tables show them."""


class DiagnosisConfig(Config):
    """Sampling and thresholds of a diagnosis. Thresholds are effects, and each is compared with an interval."""

    seed: Seed = 0
    """Seed of every random draw: equal seeds give equal diagnoses."""
    max_rows: Width = 4096
    """Maximum number of data rows used."""
    min_rows: Width = 256
    """Minimum number of data rows; data without variables must also give at least four vectors per neuron."""
    n_contrasts: int = Field(default=512, ge=16, le=2**20)
    """Maximum number of rows on which each input variable is switched off; a wide site uses fewer."""
    n_resamples: Annotated[Resamples, Field(ge=20)] = 100
    """Number of bootstrap replicates of an interval."""
    n_null: int = Field(default=400, ge=200, le=100_000)
    """Number of draws of a null of directions; more are drawn where these could not reach `alpha`."""
    alpha: float = Field(default=0.02, ge=0.01, lt=1)
    """Significance level of each test against its null."""
    represented: float = Field(default=0.3, gt=0, lt=1)
    """A variable counts as a feature of the site where a typical value of it writes at least this share of the largest
    one's norm."""
    rank_floor: float = Field(default=0.1, gt=0, lt=1)
    """A dimension counts as used where its singular value is at least this share of the largest."""
    pure: float = Field(default=0.9, gt=0.5, lt=1)
    """Share of a neuron's response that must come from one feature for the neuron to be called monosemantic."""
    margin: float = Field(default=0.1, gt=0, lt=1)
    """Smallest gap between two read-outs (R²) that counts."""

    def draws(self, wanted: int, *, tests: int = 1) -> int:
        """Number of draws that lets a test pass: with n draws, p is at least 1 / (n + 1), times the `tests` made."""
        return max(wanted, math.ceil(round(tests / self.alpha, 9)))

    def affordable(self, size: int, *, most: int = 1 << 22, tests: int = 1) -> int:
        """`draws` for a null of `size` numbers each: `n_null`, or fewer (at least 100) to stay within `most`."""
        return self.draws(max(100, min(self.n_null, most // size)), tests=tests)
