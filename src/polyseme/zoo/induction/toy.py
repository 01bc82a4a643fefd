"""Induction: two attention layers complete BOS T* S M T* S by the token that followed S before; one layer cannot.

No MLP and no norm, one head a layer, sinusoidal positions added to queries and keys alone, loss on the last token.
The task and the network are those of the released code of Bushnaq et al. 2025, in which S is one special token; with
`trigger="any"` every sequence draws its own S, and with `trigger="every"` each of its tokens is one: random tokens that
recur with a period of the sequence's own, so that the network has to match tokens in general.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, scaled_dot_product_attention

from polyseme.core.config import Config, Count, Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.heads import Pattern
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Parameters, Stack, train_stack
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

SITE = Site(path="layers.0")
BOS = 0
"""Id of BOS; those of ordinary tokens follow, and then that of the special S."""
Places = Literal["after", "before"]
"""Whether positions are added after the maps to queries and keys, or before."""


def positions(length: int, d: int) -> Float[Tensor, "position d"]:
    """sin and cos of t / 10000^(2i/d), in turn. Vaswani et al. 2017, section 3.5."""
    angle = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(0, d, 2) / d))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class Attention(nn.Module):
    """One causal head without biases, as wide as the stream; positions are added to its queries and keys."""

    positions: Tensor

    def __init__(self, d: int, length: int, places: Places):
        super().__init__()
        self.n_heads, self.places = 1, places
        self.q_proj, self.k_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.v_proj, self.o_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.pattern = Pattern()
        self.register_buffer("positions", positions(length, d), persistent=False)

    def forward(self, x: Float[Tensor, "row position d"]) -> Float[Tensor, "row position d"]:
        n = x.shape[1]
        place = self.positions[:n]
        if self.places == "before":
            queries, keys = self.q_proj(x + place), self.k_proj(x + place)
        else:
            queries, keys = self.q_proj(x) + place, self.k_proj(x) + place
        scores = queries @ keys.mT / math.sqrt(x.shape[-1])
        future = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        pattern = self.pattern(scores.masked_fill(future, -math.inf).softmax(-1)[:, None])[:, 0]
        return self.o_proj(pattern @ self.v_proj(x))


class AttentionOnly(nn.Module):
    """Token embedding, attention layers on a residual stream, unembedding."""

    def __init__(self, config: "InductionToy"):
        super().__init__()
        self.embed = nn.Embedding(config.n_tokens, config.d_model)
        self.layers = nn.ModuleList(
            Attention(config.d_model, config.length, config.places) for _ in range(config.n_layers)
        )
        self.unembed = nn.Linear(config.d_model, config.n_tokens, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def get_output_embeddings(self) -> nn.Linear:
        return self.unembed

    def forward(self, tokens: Int[Tensor, "row position"]) -> Float[Tensor, "row position token"]:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.unembed(x)


class GeneralConfig(Config):
    """Settings of the experiment `general`; its vocabulary, length and seeds are the toy's."""

    d_model: Annotated[Width, Field(ge=2, multiple_of=2)] = 64
    """Width of the stream."""
    batch: Width = 32
    """Sequences per step."""
    optimiser: OptimiserConfig = OptimiserConfig(steps=3_000, lr=1e-2, warmup=200, schedule="cosine")


class InductionToy(Toy):
    """Networks of several seeds; the experiments train them with two layers and with one layer."""

    title: ClassVar[str] = "induction and previous-token heads"
    paper: ClassVar[str] = "Bushnaq et al. 2025, Stochastic Parameter Decomposition (task); Olsson et al. 2022 (scores)"

    vocabulary: Annotated[Width, Field(ge=4)] = 128
    """Number of ordinary tokens."""
    length: int = Field(default=64, ge=5, le=2**20)
    """Number of tokens in a sequence, BOS and the last S included."""
    d_model: Annotated[Width, Field(ge=2)] = 16
    """Width of the stream, an even number."""
    n_layers: Literal[1, 2] = 2
    trigger: Literal["special", "any", "every"] = "special"
    """What S is: one token that occurs nowhere else, as in the released code (`special`); an ordinary token, drawn for
    each sequence (`any`); or every token of a sequence that repeats with a period of its own, where the loss is on all
    that the period decides (`every`)."""
    places: Places = "after"
    """Whether positions are added after the maps to queries and keys, as in the released code, or before them, to what
    they read (Elhage et al. 2021, Olsson et al. 2022); only then can a head attend to the token before."""
    seeds: Seeds = (0, 1, 2)
    batch: Width = 128
    """Sequences per step. The released code takes 1024, for 100,000 steps at a learning rate of 0.001."""
    optimiser: OptimiserConfig = OptimiserConfig(steps=4_000, lr=3e-3, warmup=500)
    record_every: Count = 100
    """Number of steps between two records of loss and accuracy."""
    general: GeneralConfig = GeneralConfig()

    @model_validator(mode="after")
    def _even(self) -> "InductionToy":
        if self.d_model % 2:
            raise ValueError("d_model must be even: each frequency of the positions has a sine and a cosine")
        if self.trigger == "every" and self.vocabulary < self.periods[1]:
            raise ValueError(f"vocabulary must be at least {self.periods[1]}: the tokens of a period are all different")
        return self

    @property
    def periods(self) -> tuple[int, int]:
        """Shortest and longest period of `trigger="every"`: a quarter and a half of the sequence."""
        return max(2, (self.length - 1) // 4), (self.length - 1) // 2

    @property
    def n_tokens(self) -> int:
        """Number of tokens: BOS, the ordinary ones and the special S."""
        return self.vocabulary + 2

    def build(self) -> AttentionOnly:
        """An untrained network."""
        return AttentionOnly(self)

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every seed, as one stack."""
        run, names = train(self, reporter), tuple(f"after {t}" for t in range(self.n_tokens))
        return run.toys(
            self.build, lambda i: Truth(SITE, names, written(run.module(i)), "layers.0"), lambda _: self._draw
        )

    @property
    def ceiling(self) -> float:
        """Half of the loss, in nats, of a guess among the ordinary tokens."""
        return math.log(self.vocabulary) / 2

    def sequences(self, draws: Draws, n: int) -> tuple[Int[Tensor, "instance row position"], Int[Tensor, "..."]]:
        """BOS T* S M T* S, and the place of the first S `[instance, row]`; S occurs nowhere else, M may.

        With `trigger="every"`: BOS and then different tokens T₁ … T_p repeatedly, and the place p of T_p.
        """
        if self.trigger == "every":
            return self._repeating(draws, n)
        first = 1 + (draws.uniform(n) * (self.length - 3)).long()
        if self.trigger == "special":
            tokens = 1 + (draws.uniform(n, self.length) * self.vocabulary).long()
            s = torch.full_like(first, self.vocabulary + 1)
        else:
            s = 1 + (draws.uniform(n) * self.vocabulary).long()
            others = 1 + (draws.uniform(n, self.length) * (self.vocabulary - 1)).long()
            tokens = 1 + (s[..., None] - 1 + others) % self.vocabulary
        tokens[..., 0], tokens[..., -1] = BOS, s
        return tokens.scatter(-1, first[..., None], s[..., None]), first

    def _repeating(self, draws: Draws, n: int) -> tuple[Int[Tensor, "instance row position"], Int[Tensor, "..."]]:
        shortest, longest = self.periods
        period = shortest + (draws.uniform(n) * (longest - shortest + 1)).long()
        # If two tokens of a period were alike, the token alone would not decide what follows.
        different = 1 + draws.uniform(n, self.vocabulary).argsort(-1)[..., :longest]
        recurring = different.gather(-1, torch.arange(self.length - 1) % period[..., None])
        return torch.cat([torch.full_like(recurring[..., :1], BOS), recurring], dim=-1), period

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        tokens = self.sequences(Draws.one(generator), n)[0][0]
        before = one_hot(tokens, self.n_tokens).float()
        return Sample(inputs=tokens, features=torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1))


def written(module: AttentionOnly) -> Float[Tensor, "token d"]:
    """What the first layer writes where it attends to one token alone."""
    first: Any = module.layers[0]
    with torch.no_grad():
        return first.o_proj(first.v_proj(module.embed.weight))


@dataclass(frozen=True)
class Run(Stack):
    """The networks of a config after their training; the loss is in nats, on what `asked` is about.

    Attributes:
        config: the config.
        steps: the step of each record.
        accuracy: the accuracy on 512 other sequences at each record, `[record, instance]`.
    """

    config: InductionToy
    steps: list[int]
    accuracy: Float[Tensor, "record instance"]

    def module(self, i: int) -> AttentionOnly:
        """One network."""
        return self.into(self.config.build(), i)


def answers(tokens: Int[Tensor, "*batch position"], first: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """M: what follows the first S."""
    return tokens.gather(-1, first[..., None] + 1).squeeze(-1)


UNKNOWN = -100
"""Answer at a place where nothing decides what follows; the cross entropy of torch leaves it out."""


def asked(
    config: InductionToy, tokens: Int[Tensor, "*batch position"], first: Int[Tensor, "*batch"]
) -> Int[Tensor, "*batch query"]:
    """What follows each place that the loss is on: the last one, or all whose token came before; else `UNKNOWN`.

    `first` is the place of the first S, or of the first period's last token.
    """
    if config.trigger != "every":
        return answers(tokens, first)[..., None]
    place = torch.arange(config.length - 1)
    return torch.where(place > first[..., None], tokens[..., 1:], UNKNOWN)


def _derived(config: InductionToy) -> list[int]:
    return [derive_seed(seed, "induction", config.n_layers) for seed in config.seeds]


def initial(config: InductionToy) -> dict[str, Tensor]:
    """Normal embeddings, and linear maps uniform in ±1/√d, as torch's own layers have them."""
    draws = Draws(_derived(config), "initial")
    d, n, bound = config.d_model, config.n_tokens, config.d_model**-0.5
    weights = {"embed.weight": draws.normal(n, d)}
    for layer in range(config.n_layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"layers.{layer}.{name}.weight"] = (2 * draws.uniform(d, d) - 1) * bound
    return weights | {"unembed.weight": (2 * draws.uniform(n, d) - 1) * bound}


def logits(
    parameters: Parameters, tokens: Int[Tensor, "instance row position"], config: InductionToy
) -> Float[Tensor, "instance row query token"]:
    """Logits at the places that `asked` is about; the last layer computes only the queries there."""
    embed = parameters["embed.weight"]
    length, d = tokens.shape[-1], embed.shape[-1]
    x = embed.gather(1, tokens.flatten(1)[..., None].expand(-1, -1, d)).unflatten(1, tokens.shape[1:])
    place = positions(length, d)
    for layer in range(config.n_layers):
        alone = layer == config.n_layers - 1 and config.trigger != "every"
        asking, there = (x[:, :, -1:], place[-1:]) if alone else (x, place)
        q, k, v, o = (partial(_mapped, weight=parameters[f"layers.{layer}.{name}_proj.weight"]) for name in "qkvo")
        if config.places == "before":
            queries, keys = q(asking + there), k(x + place)
        else:
            queries, keys = q(asking) + there, k(x) + place
        x = asking + o(scaled_dot_product_attention(queries, keys, v(x), is_causal=not alone))
    x = x[:, :, :-1] if config.trigger == "every" else x
    return _mapped(x, parameters["unembed.weight"])


def _mapped(x: Float[Tensor, "instance row position d"], weight: Float[Tensor, "instance out d"]) -> Tensor:
    return (x.flatten(1, 2) @ weight.mT).unflatten(1, x.shape[1:3])


def train(config: InductionToy, reporter: Reporter) -> Run:
    """Train every seed at once; the accuracy is measured on other sequences."""
    seeds = _derived(config)
    parameters, draws = initial(config), Draws(seeds, "data")
    held = config.sequences(Draws(seeds, "held out"), 512)
    held_answers = asked(config, *held)
    accuracy: list[Tensor] = []

    def loss(_: int) -> Tensor:
        tokens, first = config.sequences(draws, config.batch)
        target = asked(config, tokens, first)
        each = cross_entropy(logits(parameters, tokens, config).flatten(0, 2), target.flatten(), reduction="none")
        return each.unflatten(0, (len(seeds), -1)).sum(1) / (target != UNKNOWN).flatten(1).sum(1)

    @torch.no_grad()
    def record(_: int) -> None:
        right = logits(parameters, held[0], config).argmax(-1) == held_answers
        accuracy.append(right.flatten(1).sum(1) / (held_answers != UNKNOWN).flatten(1).sum(1))

    history = train_stack(
        parameters,
        loss,
        config.optimiser,
        reporter=reporter,
        name=f"induction, {config.n_layers} layers",
        record_every=config.record_every,
        on_record=record,
    )
    grid = Grid(config.seeds, n_layers=[config.n_layers], trigger=[config.trigger])
    return Run(parameters, history.final, grid, config.ceiling, config, history.steps, torch.stack(accuracy))
