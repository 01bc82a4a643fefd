"""The config of one study: a network, a corpus, the sites, a dictionary and how it is trained and judged."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from polyseme.activations import HarvestConfig
from polyseme.core.config import Config, Count, Name, PassWindows, Resamples, Seed
from polyseme.corpora import CorpusConfig, SpecialTokens, StdlibCorpusConfig
from polyseme.dictionaries import DictionaryConfig, TopKConfig
from polyseme.networks import NetworkConfig
from polyseme.training import TrainingConfig

PROMPT_TOKENS, NEW_TOKENS = 48, 40
"""Of a continuation."""


class TransformConfig(Config):
    """A change of the tokens that destroys something on purpose: a control."""

    kind: Literal["shuffle_within_document", "unigram", "uniform"]
    seed: Seed = 0


class TokensConfig(Config):
    """Which tokens of the corpus are used."""

    train: Count = 1_000_000
    """Tokens of the train side that are packed (fewer than `training.n_tokens` are gone through several times)."""
    heldout: Count = 100_000
    """Tokens of held-out documents that everything is measured on."""
    splice: Count = 20_000
    """Held-out tokens, from the first on and in whole windows, that splicing is measured on; it costs many passes."""
    train_document_tokens: Count | None = None
    """Most train tokens of one document, a stretch at a random place; None for whole documents."""
    heldout_document_tokens: Count | None = 512
    """The same for held-out tokens: intervals are over documents, so many short stretches beat a few long ones."""
    context: int | None = Field(default=None, ge=2, le=2**20)
    """Tokens a window; None for the network's context, at most 1024."""
    heldout_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of documents on the held-out side."""
    allow_fewer: bool = False
    """Take what there is where the corpus holds fewer tokens than asked for, instead of stopping."""
    special_tokens: SpecialTokens = "parse"
    """What becomes of the tokenizer's control tokens (`<|im_start|>`, `</s>`) where a document spells them out: `parse`
    reads them as such and counts them in no statistic; `text` reads them as plain text."""
    seed: Seed = 0
    """Seed for document order."""
    transform: TransformConfig | None = None
    """Set by the controls on data."""


class EvaluationConfig(Config):
    """What is measured besides reconstruction and splicing."""

    n_resamples: Annotated[Resamples, Field(ge=100)] = 1000
    """Bootstrap resamples of documents behind each interval."""
    lookup_tokens: Count = 200_000
    """Train tokens that the token and bigram look-up tables are learned on."""
    n_continuations: int = Field(default=3, ge=0, le=1000)
    """Held-out prompts continued by the clean and by the jointly patched network."""
    batch_windows: PassWindows = 16
    """Most windows a forward pass; a wide network or long windows take fewer."""


class StudyConfig(Config):
    """One study without controls; the control studies are studies of this kind too."""

    name: str = Field(default="study", max_length=64, pattern=r"^[a-z0-9_-]+$")
    """Names the run's folder: 1 to 64 of a-z, 0-9, _ and -."""
    network: NetworkConfig = NetworkConfig()
    corpus: CorpusConfig = StdlibCorpusConfig()
    tokens: TokensConfig = TokensConfig()
    sites: tuple[Name, ...] = Field(default=("blocks.2.resid_post",), max_length=1000)
    """Where dictionaries are trained: short or TransformerLens names or module paths; `polyseme sites` lists them."""
    dictionary: DictionaryConfig = TopKConfig()
    harvest: HarvestConfig = HarvestConfig()
    training: TrainingConfig = TrainingConfig()
    seeds: tuple[Seed, ...] = Field(default=(0, 1), max_length=100)
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
        tokens, n_texts, text = self.tokens, self.evaluation.n_continuations, PROMPT_TOKENS + NEW_TOKENS
        if tokens.splice > tokens.heldout:
            raise ValueError(
                f"`tokens.splice` is {tokens.splice:,}, of {tokens.heldout:,} held-out tokens: lower it to that or "
                "less, or raise `tokens.heldout`"
            )
        if tokens.context is not None and tokens.context < text and n_texts:
            raise ValueError(
                f"`tokens.context` is {tokens.context}, and a continued text takes {PROMPT_TOKENS} + {NEW_TOKENS} "
                f"tokens: set `evaluation.n_continuations` to 0, or the context to {text} or more"
            )
        if self.dictionary.n_latents is not None:  # without it the network's width decides
            self.dictionary.width(0)
        return self
