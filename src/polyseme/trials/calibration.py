"""What is planted when verdicts are calibrated, and how they are judged there."""

from itertools import combinations
from typing import Literal

from pydantic import Field, model_validator

from polyseme.causal import CausalConfig
from polyseme.core.config import Config, Count, Width
from polyseme.dictionaries import TopKConfig
from polyseme.studies.levels import LevelName
from polyseme.trials.kinds import Mode
from polyseme.trials.planted import Planting
from polyseme.verdicts.evidence import VerdictConfig

ControlKind = Literal["gaussian_reinit", "permuted_weights", "spectrum_reinit"]
MATCH_TOKENS = 60_000
"""Train tokens that matches are chosen on, as in a study (`evaluation.match_tokens`)."""
OF_WEIGHTS: tuple[ControlKind, ...] = ("gaussian_reinit", "permuted_weights", "spectrum_reinit")
"""The nulls of the weights. Those of the text are left out: no answer rests on them."""
Split = Literal["calibration", "test"]
SIZES: dict[Split, Planting] = {
    "calibration": Planting(),
    "test": Planting(
        feature=28,
        token=10,
        bigram=10,
        rare=8,
        unread=8,
        bystander=10,
        built_in=10,
        built_in_unread=6,
        d=72,
        vocabulary=320,
        zipf=0.7,
    ),
}
"""The networks that the trial was built on, and those behind the figures that come with the package, 8 to 19 of
`test`. They share their sizes with 0 to 7, which the rule was last changed on."""


class CalibrationConfig(Config):
    """What is planted, and how the dictionaries that look for it are made and judged."""

    split: Split = "test"
    """Which networks: the two sets share no seed and no size."""
    first: int = Field(default=8, ge=0, le=10**6)
    """The first of them. Networks 0 to 7 of either split were looked at while the rule was made."""
    n_networks: int = Field(default=12, ge=1, le=1_000)
    """Number of planted networks, each with its own nulls, text and dictionaries."""
    planting: Planting | None = None
    """Number of variables of each kind, and the networks' size. None: those of the split."""
    n_documents: int = Field(default=60, ge=2, le=10**6)
    """Number of held-out documents of 384 tokens."""
    n_train_tokens: Count = 200_000
    """Number of tokens that each dictionary is trained on, all distinct."""
    n_latents: Width | None = None
    """Width of the trained dictionaries. None: one and a half times the number of variables."""
    k: Width = 8
    """Active latents per token of the trained dictionaries."""
    levels: tuple[LevelName, ...] = Field(default=("quick", "standard"), min_length=1, max_length=3)
    """Levels of evidence, each as a study has it."""
    controls: tuple[ControlKind, ...] = Field(default=OF_WEIGHTS, min_length=1, max_length=3)
    """Kinds of control, made by the code that makes them for a study; every set of them is judged."""
    modes: tuple[Mode, ...] = Field(
        default=("trained", "oracle", "altered", "frozen_decoder", "frozen_directions", "random_writes"),
        min_length=1,
        max_length=6,
    )
    """Which dictionaries are judged."""
    causal: CausalConfig = CausalConfig()
    """Its `n_samples` and `n_directions` are those of each level."""
    verdicts: VerdictConfig = VerdictConfig()

    @model_validator(mode="after")
    def _k_possible(self) -> "CalibrationConfig":
        self.dictionary.width(self.planted.d)
        return self

    @property
    def planted(self) -> Planting:
        """The variables of each network."""
        return self.planting or SIZES[self.split]

    @property
    def dictionary(self) -> TopKConfig:
        """The dictionary that is trained on every planted network and null."""
        return TopKConfig(n_latents=self.n_latents or round(1.5 * len(self.planted.kinds)), k=self.k)

    @property
    def combinations(self) -> tuple[tuple[ControlKind, ...], ...]:
        """The sets of controls that latents are compared with, each in alphabetical order."""
        kinds = sorted(set(self.controls))
        return tuple(some for n in range(1, 1 + len(kinds)) for some in combinations(kinds, n))
