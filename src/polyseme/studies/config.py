"""The config of one study: a network, a corpus, the sites, a dictionary and how it is trained and judged."""

from typing import Literal

from pydantic import Field, model_validator

from polyseme.activations import HarvestConfig
from polyseme.core.config import Config
from polyseme.corpora import CorpusConfig, StdlibCorpusConfig
from polyseme.dictionaries import DictionaryConfig, TopKConfig
from polyseme.networks import NetworkConfig
from polyseme.training import TrainingConfig


class TransformConfig(Config):
    """A change of the tokens that destroys something on purpose: a control."""

    kind: Literal["shuffle_within_document", "unigram", "uniform"]
    seed: int = 0


class TokensConfig(Config):
    """Which tokens of the corpus are used."""

    train: int = Field(default=1_000_000, ge=1)
    """Tokens of the train side that are packed (fewer than `training.n_tokens` are gone through several times)."""
    heldout: int = Field(default=100_000, ge=1)
    """Tokens of held-out documents that everything is measured on."""
    splice: int = Field(default=20_000, ge=1)
    """The first so many held-out tokens, in whole windows, are also used for splicing, which costs many passes."""
    train_document_tokens: int | None = Field(default=None, ge=1)
    """At most so many train tokens of one document, a stretch at a random place; None for whole documents."""
    heldout_document_tokens: int | None = Field(default=512, ge=1)
    """The same for held-out tokens: intervals are over documents, so many short stretches beat a few long ones."""
    context: int | None = None
    """Tokens a window; None for the network's context, at most 1024."""
    heldout_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of documents on the held-out side."""
    allow_fewer: bool = False
    """Take what there is where the corpus holds fewer tokens than asked for, instead of stopping."""
    seed: int = 0
    """Of the order in which documents are sampled."""
    transform: TransformConfig | None = None
    """Set by the controls on data."""


class EvaluationConfig(Config):
    """What is measured besides reconstruction and splicing."""

    n_resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples of documents behind each interval."""
    lookup_tokens: int = Field(default=200_000, ge=1)
    """Train tokens that the token and bigram look-up tables are learned on."""
    n_continuations: int = Field(default=3, ge=0)
    """Held-out prompts continued by the clean and by the jointly patched network."""
    batch_windows: int = Field(default=16, ge=1)
    """Windows a forward pass."""


class StudyConfig(Config):
    """One study without controls; the control studies are studies of this kind too."""

    name: str = "study"
    """Names the run's folder: 1 to 64 of a-z, 0-9, _ and -."""
    network: NetworkConfig = NetworkConfig()
    corpus: CorpusConfig = StdlibCorpusConfig()
    tokens: TokensConfig = TokensConfig()
    sites: tuple[str, ...] = ("blocks.2.resid_post",)
    """Where dictionaries are trained: short or TransformerLens names or module paths; `polyseme sites` lists them."""
    dictionary: DictionaryConfig = TopKConfig()
    harvest: HarvestConfig = HarvestConfig()
    training: TrainingConfig = TrainingConfig()
    seeds: tuple[int, ...] = (0, 1)
    """One dictionary a site and seed; the first seed's are judged, the others say what recurs."""
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        if not self.sites:
            raise ValueError("`sites` is empty: name at least one")
        if not self.seeds:
            raise ValueError("`seeds` is empty: name at least one")
        for what, values in (("sites", self.sites), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"`{what}` names one twice: {list(values)}")
        return self
