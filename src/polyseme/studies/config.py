"""The config of one study: a network, a corpus, the sites, a dictionary and how it is trained and judged."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import Field, model_validator

from polyseme.activations import HarvestConfig
from polyseme.causal import CausalConfig
from polyseme.core.binding import Binding, Bound, bound
from polyseme.core.config import MAX_SEED, Config, Count, PassWindows, Resamples, Seed
from polyseme.core.records import Axis
from polyseme.corpora import CorpusConfig, SpecialTokens, StdlibCorpusConfig
from polyseme.dictionaries import DictionaryConfig, TopKConfig
from polyseme.networks import NetworkConfig
from polyseme.nulls import NullConfig
from polyseme.studies.levels import DEFAULT, LEVELS, LevelName, filled
from polyseme.training import TrainingConfig
from polyseme.verdicts.evidence import VerdictConfig

PROMPT_TOKENS, NEW_TOKENS = 48, 40
"""Lengths of a continuation."""
LEAST_REPLICATES = 2
"""Partners, and draws of a null, without which nobody knows how far one differs from the next."""


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
    match_tokens: Count = 60_000
    """Train tokens that the matches of latents and their predictions are chosen on, which held-out tokens measure."""
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
    evidence: LevelName = DEFAULT
    """How much the verdicts rest on: `quick`, `standard` or `paper` sets `seeds`, `draws`, `causal.n_samples` and
    `causal.n_directions`; a value that is given for one of them takes precedence."""
    seeds: tuple[Seed, ...] = Field(default=LEVELS[DEFAULT].seeds, max_length=100)
    """One dictionary is trained per site and seed; those of the first seed are judged, the others show what recurs."""
    evaluation: EvaluationConfig = EvaluationConfig()
    null: NullConfig | None = None
    """Study this null itself, in the place of the network, of the corpus, or of freely trained dictionaries."""
    controls: tuple[NullConfig, ...] = Field(default=(), max_length=64)
    """Nulls that the whole study is repeated on. Without one of the weights no latent can be called a network feature.
    No answer rests on the others: what dictionaries on null texts make of each latent is shown beside it, and those of
    the dictionary are compared by their scores."""
    draws: int = Field(default=LEVELS[DEFAULT].draws, ge=1, le=100)
    """Draws of every control of the weights, with the seeds from its own on. A control that is listed with several
    seeds has these draws. Latents are compared with every draw; the scores are those of the first."""
    draw_seed: Seed = 0
    """Seed of what is drawn when latents are judged: held-out documents out of their side, the firings that are
    sampled, and the directions that are compared. No dictionary rests on it."""
    causal: CausalConfig = CausalConfig()
    verdicts: VerdictConfig = VerdictConfig()
    shown: int = Field(default=30, ge=0, le=10_000)
    """Most latents of each word that the report shows, the most stable ones first."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        return filled(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else given

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

    @property
    def bindings(self) -> dict[str, Binding[str]]:
        """What the dictionaries of each entry of `sites` are called, to the names of what they read and write."""
        return {str(binding): binding for binding in map(bound, self.sites)}

    @property
    def copied(self) -> tuple[int, ...]:
        """The seeds of whose dictionaries copies are kept along the training: the judged one and as many partners as
        its axes need; none where there are fewer."""
        return self.seeds[: LEAST_REPLICATES + 1] if len(self.seeds) > LEAST_REPLICATES else ()

    @property
    def judging(self) -> tuple[NullConfig, ...]:
        """The controls whose dictionaries each latent is compared with: those of the weights, on which the axis
        `network` rests, and those of the tokens, which are shown. A null of the dictionary has the real network and
        text, so what its dictionaries find is no measure of what is found without them."""
        return tuple(control for control in self.controls if control.targets != "dictionary")

    @property
    def drawn(self) -> dict[str, tuple[NullConfig, ...]]:
        """Kind of a judging control, with its settings, to all its draws: those listed, or `draws` of them from the one
        that is. No answer rests on controls of the tokens: two draws of each are enough, the first for its scores and
        the other to compare latents with."""
        listed: dict[str, list[NullConfig]] = {}
        for control in self.judging:
            listed.setdefault(control.model_copy(update={"seed": 0}).name, []).append(control)
        for nulls in listed.values():
            if len(nulls) == 1:
                n = self.draws if nulls[0].targets == "weights" else 2
                nulls += [_draw(nulls[0], i) for i in range(1, n)]
        return {kind: tuple(nulls) for kind, nulls in listed.items()}

    @property
    def missing(self) -> dict[Axis, str]:
        """The axes of a profile that seeds and controls let say nothing of any latent, each with what is missing."""
        n_partners = len(self.seeds) - 1
        if n_partners < LEAST_REPLICATES:
            have = "one dictionary" if n_partners else "no dictionary"
            few = f"the study has {have} of another seed (`seeds`), and {LEAST_REPLICATES} are needed"
            return {"recurrent": few, "network": few, "beyond_tokens": few}
        of_weights = [nulls for nulls in self.drawn.values() if nulls[0].targets == "weights"]
        if not of_weights:
            return {"network": "the study has no control of the weights (`controls`)"}
        if max(map(len, of_weights)) < LEAST_REPLICATES:
            return {"network": f"the controls have one draw (`draws`), and {LEAST_REPLICATES} are needed"}
        return {}


def _draw(null: NullConfig, i: int) -> NullConfig:
    """The i-th draw of a null, counted from the one that is given."""
    return null.model_copy(update={"seed": (null.seed + i) % (MAX_SEED + 1)})
