"""Skip-trigram inhibition: C takes attention from B and writes nothing, so no sum over tokens describes the head.

One attention head reads L fillers and, sometimes, B and C, from its last token A. Hand-built, fillers score 0, B ln 10
and C ln 1000, and B alone writes: A's attention to B is 10/(L + 10) without C and 10/(L + 1010) with it. Trained, the
answer is Y with probability .9 after B without C and .1 otherwise. A table of skip-trigrams (B … A → Y), the reading
of Elhage et al. 2021, adds up its tokens, so the effect of B cannot depend on C.
"""

import math
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

PAPER = "skip-trigram table of Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
SITE, PATTERN = Site(path="mixed"), Site(path="pattern")
TRUTH = Truth(SITE, features=("B", "C"), directions=None, computed_at="mixed", cause="non_linear")
BLANK, A, B, C, FILLER = range(5)
"""Tokens; the kinds of fillers follow from FILLER on. A blank is padding: nothing attends to it."""
LIKELY = 0.9
"""Probability of Y after B without C; of the other answer everywhere else."""
WEIGHT_B, WEIGHT_C = 10.0, 1000.0
"""Exponentials of the hand-built scores."""


class SkipTrigram(nn.Module):
    """One attention head, read at its last token; `pattern` is whom it attends to, `mixed` what it brings.

    Args:
        n_tokens: vocabulary and width of the embedding.
    """

    def __init__(self, n_tokens: int):
        super().__init__()
        self.embed = nn.Embedding(n_tokens, n_tokens)
        self.query = nn.Linear(n_tokens, n_tokens, bias=False)
        self.key = nn.Linear(n_tokens, n_tokens, bias=False)
        self.value = nn.Linear(n_tokens, n_tokens, bias=False)
        self.pattern, self.mixed = nn.Identity(), nn.Identity()
        self.unembed = nn.Linear(n_tokens, 2)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch 2"]:
        x = self.embed(tokens)
        scores = (self.key(x[:, :-1]) @ self.query(x[:, -1:]).mT).squeeze(-1)
        pattern = self.pattern(scores.masked_fill(tokens[:, :-1] == BLANK, -math.inf).softmax(-1))
        return self.unembed(self.mixed((pattern[..., None] * self.value(x[:, :-1])).sum(-2)))


class SkipTrigramToy(Toy):
    """The hand-built head, and trained ones of several seeds."""

    title: ClassVar[str] = "skip-trigram inhibition"
    paper: ClassVar[str] = PAPER

    n_fillers: Width = 10
    """L: tokens before A beside B and C."""
    n_kinds: Width = 4
    """Different fillers."""
    seeds: Seeds = tuple(range(12))
    batch: Width = 256
    optimiser: OptimiserConfig = OptimiserConfig(steps=2_000, lr=1e-2, schedule="cosine", weight_decay=0.0)

    @property
    def n_tokens(self) -> int:
        """Blank, A, B, C and the fillers."""
        return FILLER + self.n_kinds

    def build(self) -> SkipTrigram:
        """An untrained head."""
        return SkipTrigram(self.n_tokens)

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """The hand-built head, then the trained ones."""
        by_hand = TrainedToy(hand_built(self).float(), TRUTH, self._draw, 0, {"made": "by hand"}, 0.0, 0.0)
        return [by_hand, *train(self, reporter).toys(self.build, lambda _: TRUTH, lambda _: self._draw)]

    def sample(self, draws: Draws, n: int) -> tuple[Int[Tensor, "instance row position"], Float[Tensor, "..."]]:
        """Rows of L + 2 tokens and A, and whether B and C are in them (`[instance, row, 2]`), each half of the time."""
        n_before = self.n_fillers + 2
        tokens = FILLER + (draws.uniform(n, n_before) * self.n_kinds).long()
        present = draws.uniform(n, 2) < 0.5
        slots = draws.uniform(n, n_before).topk(2, dim=-1).indices
        for i, token in enumerate((B, C)):
            slot = slots[..., i : i + 1]
            there = torch.where(present[..., i : i + 1], token, tokens.gather(-1, slot))
            tokens = tokens.scatter(-1, slot, there)
        last = torch.full_like(tokens[..., :1], A)
        return torch.cat([tokens, last], dim=-1), present.float()

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        tokens, present = self.sample(Draws.one(generator), n)
        return Sample(inputs=tokens[0], features=present[0])


def hand_built(config: SkipTrigramToy) -> SkipTrigram:
    """The head of the derivation, in float64: its first logit is its attention to B."""
    module, n = SkipTrigram(config.n_tokens).double(), config.n_tokens
    one_hot = torch.eye(n, dtype=torch.float64)
    key, value, unembed = torch.zeros(n, n).double(), torch.zeros(n, n).double(), torch.zeros(2, n).double()
    key[A, B], key[A, C] = math.log(WEIGHT_B), math.log(WEIGHT_C)
    value[B, B] = unembed[0, B] = 1.0
    module.load_state_dict(
        {
            "embed.weight": one_hot,
            "query.weight": one_hot,
            "key.weight": key,
            "value.weight": value,
            "unembed.weight": unembed,
            "unembed.bias": torch.zeros(2, dtype=torch.float64),
        }
    )
    return module


def train(config: SkipTrigramToy, reporter: Reporter) -> Stack:
    """Train every seed at once, on the answer's distribution rather than on draws of it."""
    grid, n = Grid(config.seeds, made=["by training"]), config.n_tokens
    seeds = [derive_seed(seed, "skip_trigram") for seed in grid.seeds]
    initial, draws = Draws(seeds, "initial"), Draws(seeds, "data")
    names = ("embed", "query", "key", "value")
    parameters = {f"{name}.weight": initial.normal(n, n) / math.sqrt(n) for name in names}
    parameters["unembed.weight"] = initial.normal(2, n) / math.sqrt(n)
    parameters["unembed.bias"] = torch.zeros(len(seeds), 2)

    def loss(_: int) -> Tensor:
        tokens, present = config.sample(draws, config.batch)
        embed, query, key, value = (parameters[f"{name}.weight"] for name in names)
        # Per token, not per position: what every token scores and writes for A is a table of the vocabulary.
        score = ((embed @ key.mT) @ (embed[:, A, None] @ query.mT).mT).squeeze(-1)
        writes = (embed @ value.mT) @ parameters["unembed.weight"].mT
        before = tokens[..., :-1]
        flat = before.flatten(1)
        pattern = score.gather(1, flat).view(before.shape).softmax(-1)
        written = torch.stack([writes[..., i].gather(1, flat).view(before.shape) for i in range(2)], dim=-1)
        logits = (pattern[..., None] * written).sum(-2) + parameters["unembed.bias"][:, None]
        likely = torch.where((present[..., 0] == 1) & (present[..., 1] == 0), LIKELY, 1 - LIKELY)
        answers = logits.log_softmax(-1)
        return -(likely * answers[..., 0] + (1 - likely) * answers[..., 1]).mean(-1)

    history = train_stack(parameters, loss, config.optimiser, reporter=reporter)
    return Stack(parameters, history.final, grid, additive_loss())


def additive_loss() -> float:
    """The least cross-entropy, in nats, of a logit β₀ + β_B B + β_C C over the four cells of B and C."""
    from scipy import optimize

    design = np.array([[1, b, c] for b in (0, 1) for c in (0, 1)], dtype=np.float64)
    likely = np.array([LIKELY if (b, c) == (1, 0) else 1 - LIKELY for b in (0, 1) for c in (0, 1)])

    def loss(beta: Float[np.ndarray, " 3"]) -> float:
        logit = design @ beta
        return float((np.logaddexp(0, logit) - likely * logit).mean())

    return float(optimize.minimize(loss, np.zeros(3)).fun)
