"""The config of one study: a network, a corpus, the sites, a dictionary and how it is trained and judged."""

from collections import Counter
from typing import Annotated

from pydantic import Field, model_validator

from polyseme.activations import HarvestConfig
from polyseme.causal import CausalConfig
from polyseme.core.binding import Binding, Bound, bound
from polyseme.core.config import Config, Count, PassWindows, Resamples, Seed
from polyseme.corpora import CorpusConfig, SpecialTokens, StdlibCorpusConfig
from polyseme.dictionaries import DictionaryConfig, TopKConfig
from polyseme.networks import NetworkConfig
from polyseme.nulls import NullConfig
from polyseme.training import TrainingConfig
from polyseme.verdicts.judge import VerdictConfig
from polyseme.verdicts.requirements import impossible

PROMPT_TOKENS, NEW_TOKENS = 48, 40
"""Lengths of a continuation."""


class TokensConfig(Config):
    """Which tokens of the corpus are used."""

    train: Count = 1_000_000
    """Tokens of the train side that are packed; where `training.n_tokens` is more, they are repeated."""
    heldout: Count = 100_000
    """Tokens of held-out documents that everything is measured on."""
    splice: Count = 20_000
    """Held-out tokens, from the first on and in whole windows, that splicing is measured on; it costs many passes."""
    train_document_tokens: Count | None = None
    """Most train tokens of one document, a stretch at a random place; None for whole documents."""
    heldout_document_tokens: Count | None = 512
    """The same for held-out tokens. Intervals are over documents, hence many short stretches, not a few long ones."""
    context: int | None = Field(default=None, ge=2, le=2**20)
    """Tokens in a window; None for the network's context, at most 1024."""
    heldout_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of documents on the held-out side."""
    allow_fewer: bool = False
    """Where the corpus holds fewer tokens than these, take all that it holds instead of stopping."""
    special_tokens: SpecialTokens = "parse"
    """What becomes of the tokenizer's control tokens (`<|im_start|>`, `</s>`) where a document spells them out: `parse`
    reads them as such and counts them in no statistic; `text` reads them as plain text."""
    seed: Seed = 0
    """Seed for document order."""


class EvaluationConfig(Config):
    """What is measured besides reconstruction and splicing."""

    n_resamples: Annotated[Resamples, Field(ge=100)] = 1000
    """Bootstrap resamples of documents behind each interval."""
    lookup_tokens: Count = 200_000
    """Train tokens that the token and bigram look-up tables are learned on."""
    n_continuations: int = Field(default=3, ge=0, le=1000)
    """Held-out prompts continued by the clean and by the jointly patched network."""
    batch_windows: PassWindows = 16
    """Most windows in a forward pass; a wide network or long windows take fewer."""


class StudyConfig(Config):
    """A study with its controls: what a study file says."""

    name: str = Field(default="study", max_length=64, pattern=r"^[a-z0-9_-]+$")
    """Names the run's folder: 1 to 64 of a-z, 0-9, _ and -."""
    network: NetworkConfig = NetworkConfig()
    corpus: CorpusConfig = StdlibCorpusConfig()
    tokens: TokensConfig = TokensConfig()
    sites: tuple[Bound, ...] = Field(default=("blocks.2.resid_post",), max_length=1000)
    """Where dictionaries are trained: short or TransformerLens names or module paths; `polyseme sites` lists them. A
    transcoder, which writes other sites than it reads, is a table `{reads = ["…"], writes = ["…"]}`."""
    dictionary: DictionaryConfig = TopKConfig()
    harvest: HarvestConfig = HarvestConfig()
    training: TrainingConfig = TrainingConfig()
    seeds: tuple[Seed, ...] = Field(default=(0, 1), max_length=100)
    """One dictionary is trained per site and seed; those of the first seed are judged, the others show what recurs."""
    evaluation: EvaluationConfig = EvaluationConfig()
    null: NullConfig | None = None
    """Study this null itself, in the place of the network, of the corpus, or of freely trained dictionaries."""
    controls: tuple[NullConfig, ...] = Field(default=(), max_length=64)
    """Nulls that the whole study is repeated on. Without one of the weights or the tokens no latent can be called
    supported; those of the dictionary are compared by their scores, and no verdict rests on them."""
    causal: CausalConfig = CausalConfig()
    verdicts: VerdictConfig = VerdictConfig()
    shown: int = Field(default=50, ge=0, le=10_000)
    """Most telling latents of each verdict that the report shows."""

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        if not self.sites:
            raise ValueError("`sites` is empty: name at least one")
        if not self.seeds:
            raise ValueError("`seeds` is empty: name at least one")
        names = [str(bound(site)) for site in self.sites]
        for what, values in (("sites", names), ("seeds", self.seeds)):
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

    @model_validator(mode="after")
    def _distinct_controls(self) -> "StudyConfig":
        names = [control.name for control in self.controls]
        if len(set(names)) < len(names):
            twice = ", ".join(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"`controls` has {twice} more than once: remove one or give another `seed`")
        return self

    @model_validator(mode="after")
    def _verdicts_possible(self) -> "StudyConfig":
        if not self.lacks:
            # Without a width of its own a dictionary takes the site's, which is not known yet.
            reason = impossible(self.causal, self.verdicts, self.dictionary.n_latents or 1)
            if reason:
                raise ValueError(reason)
        return self

    @property
    def bindings(self) -> dict[str, Binding[str]]:
        """What the dictionaries of each entry of `sites` are called, to the names of what they read and write."""
        return {str(binding): binding for binding in map(bound, self.sites)}

    @property
    def judging(self) -> tuple[NullConfig, ...]:
        """The controls that verdicts rest on: those of the weights and of the tokens. A null of the dictionary has the
        real network and text, so what its dictionaries find is no measure of what is found without them."""
        return tuple(control for control in self.controls if control.targets != "dictionary")

    @property
    def lacks(self) -> tuple[str, ...]:
        """What model-specificity needs and the study does not have: a control to judge against, a second seed."""
        control = "control of the weights or tokens" if self.controls else "control"
        needed = {control: bool(self.judging), "second seed": len(self.seeds) > 1}
        return tuple(what for what, there in needed.items() if not there)
