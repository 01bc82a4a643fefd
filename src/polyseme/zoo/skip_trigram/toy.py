"""Skip-trigram inhibition: C takes attention from B and writes nothing, so no sum over tokens describes the head.

One attention head reads L fillers and, sometimes, B and C, from its last token A. Hand-built, fillers score 0, B ln 10
and C ln 1000, and B alone writes: A's attention to B is 10/(L + 10) without C and 10/(L + 1010) with it. Trained, the
answer is Y with probability 0.9 after B without C and 0.1 otherwise. A table of skip-trigrams (B … A → Y), the reading
of Elhage et al. 2021, adds up its tokens, so the effect of B cannot depend on C.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.networks import load_network
from polyseme.networks.edits import Edit
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, fill, mean, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

PAPER = "skip-trigram table of Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
SITE, PATTERN = Site(path="mixed"), Site(path="pattern")
TRUTH = Truth(SITE, features=("B", "C"), directions=None, computed_at="mixed", cause="non_linear")
BLANK, A, B, C, FILLER = range(5)
"""Ids of tokens; the kinds of fillers start at FILLER. A blank is padding: nothing attends to it."""
LIKELY = 0.9
"""Probability of Y after B without C, and of the other answer everywhere else."""
WEIGHT_B, WEIGHT_C = 10.0, 1000.0
"""Exponentials of the hand-built scores."""


class SkipTrigram(nn.Module):
    """One attention head, read at its last token; `pattern` is its attention, `mixed` what it writes.

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
    """Number of tokens before A besides B and C, L."""
    n_kinds: Width = 4
    """Number of kinds of fillers."""
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


def _exactly(name: str, within: float, target: float = math.nan) -> Line:
    return Line(
        f"{name}, L = {{L}}",
        f"{{target:.4f}} (± {within:g})",
        target=target,
        within=within,
        source="derived",
        paper="attention 10/(L + 10) and 10/(L + 1010)",
    )


EXACT = (
    _exactly("attention on B without C", 1e-4),
    _exactly("attention on B beside C", 1e-4),
    _exactly("interaction of B and C in the logit", 1e-4),
    _exactly("interaction in the best additive table", 1e-10, 0),
    _exactly("largest interaction under frozen attention", 1e-6, 0),
)
CONTRAST = 2 * math.log((1 - LIKELY) / LIKELY)
TRAINED = (
    Line("heads whose logit no additive table fits (R² ≤ 0.9)", "1", 1, 1),
    Line("R² of the best additive table", "2/3 (± 0.1)", target=2 / 3, within=0.1, source="derived"),
    Line(
        "interaction of B and C in the logit",
        "2 ln((1 − 0.9)/0.9) = {target:.2f} (± 10%)",
        target=CONTRAST,
        relative=0.1,
        source="derived",
    ),
    Line("largest interaction under frozen attention", "0 (± 1e-6)", target=0, within=1e-6, source="derived"),
    Line("least R² of the same table under uniform attention", "1 (± 1e-6)", target=1, within=1e-6, source="derived"),
)


def cells(tokens: Int[Tensor, "row position"], absent: int | None) -> list[Int[Tensor, "row position"]]:
    """The rows with B and C, B alone, C alone and neither; `absent` replaces a token, by default a filler."""
    gone = FILLER if absent is None else absent
    without_b, without_c = tokens.masked_fill(tokens == B, gone), tokens.masked_fill(tokens == C, gone)
    return [tokens, without_c, without_b, without_b.masked_fill(without_b == C, gone)]


def interaction(
    module: SkipTrigram, rows: Sequence[Int[Tensor, "row position"]], *, pattern: Float[Tensor, "..."] | None = None
) -> Float[Tensor, " row"]:
    """f(B, C) − f(B) − f(C) + f(neither) of the logit of Y less that of the other answer.

    Args:
        module: the head.
        rows: the four cells, as `cells` gives them.
        pattern: replaces the attention of every cell, `[row, position]`.
    """
    network = load_network(module, example_inputs=rows[0][:1])
    edits: dict[str, Edit] = {} if pattern is None else {str(PATTERN): lambda _: pattern}
    both, b, c, neither = (_difference(network.run(cell, edits=edits).logits) for cell in rows)
    return both - b - c + neither


def additive_fit(tokens: Int[Tensor, "row position"], target: Float[Tensor, " row"], n_tokens: int) -> float:
    """R² of the best table of tokens, which gives the target as a sum of one number for each token, in float64."""
    counts = torch.nn.functional.one_hot(tokens, n_tokens).sum(1).double().numpy()
    y = target.double().numpy()
    left = y - counts @ np.linalg.lstsq(counts, y, rcond=None)[0]
    return 1 - float((left**2).sum() / ((y - y.mean()) ** 2).sum())


def _difference(logits: Float[Tensor, "row 2"]) -> Float[Tensor, " row"]:
    return logits[:, 0] - logits[:, 1]


def _hand_rows(config: SkipTrigramToy) -> list[Tensor]:
    return cells(torch.tensor([[FILLER] * config.n_fillers + [B, C, A]]), BLANK)


def exact(config: SkipTrigramToy, _: Reporter) -> list[Check]:
    """Attention and interaction of the hand-built head, and the interaction of a table and under frozen attention."""
    module, rows, L = hand_built(config), _hand_rows(config), config.n_fillers
    network = load_network(module, example_inputs=rows[0])
    patterns = [network.read(row, [PATTERN])[PATTERN] for row in rows]
    alone, beside = WEIGHT_B / (L + WEIGHT_B), WEIGHT_B / (L + WEIGHT_B + WEIGHT_C)
    values = torch.cat([_difference(network.run(row).logits) for row in rows])
    # Least squares over the four cells: an additive table's best, and its interaction, which is 0 whatever the table.
    design = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]], dtype=torch.float64)
    # Not by the default driver, whose pivots torch leaves unset (pytorch issue 71222).
    table = design @ torch.linalg.lstsq(design, values[:, None], driver="gelsd").solution.squeeze(-1)
    frozen = max(float(interaction(module, rows, pattern=pattern).abs().max()) for pattern in patterns)
    found = (
        (float(patterns[1][0, L]), alone),
        (float(patterns[0][0, L]), beside),
        (float(interaction(module, rows)), beside - alone),
        (float(table[0] - table[1] - table[2] + table[3]), None),
        (frozen, None),
    )
    return [line.fill(Value(value), target=target, L=L) for line, (value, target) in zip(EXACT, found, strict=True)]


def trained(config: SkipTrigramToy, reporter: Reporter) -> list[Check]:
    """Trained heads: no additive table fits them, until their attention is frozen."""
    stack = train(config, reporter)
    # A head that is no better than a table has not learnt to inhibit: it is left out, and every note counts it.
    learnt = [i for i, loss in enumerate(stack.loss.tolist()) if loss <= additive_loss()]
    note = (
        f"{len(learnt)} of {len(config.seeds)} heads are better than the best additive table; the others are left out"
    )
    if not learnt:
        return fill(TRAINED, (), note)
    tokens, present = (x[0] for x in config.sample(Draws([derive_seed(0, "skip_trigram", "test")]), 4_000))
    both = tokens[(present == 1).all(-1)]
    rows = cells(both, None)
    fits, uniform_fits, contrasts, frozen = [], [], [], []
    for i in learnt:
        module = stack.into(config.build(), i).double()
        network = load_network(module, example_inputs=tokens[:1])
        run = network.run(tokens, reads=[PATTERN])
        pattern = run.reads[PATTERN]
        uniform: dict[str, Edit] = {str(PATTERN): lambda p: torch.full_like(p, 1 / p.shape[-1])}
        fits.append(additive_fit(tokens, _difference(run.logits), config.n_tokens))
        uniform_logits = network.run(tokens, edits=uniform).logits
        uniform_fits.append(additive_fit(tokens, _difference(uniform_logits), config.n_tokens))
        contrasts.append(float(interaction(module, rows).mean()))
        of_both = pattern[(present == 1).all(-1)]
        frozen.append(float(interaction(module, rows, pattern=of_both).abs().max()))
    found = (
        share([fit <= 0.9 for fit in fits], note=note),
        mean(fits, note),
        mean(contrasts, note),
        Value(max(frozen), len(fits), note=note),
        Value(min(uniform_fits), len(fits), note=note),
    )
    return fill(TRAINED, found)


def attention_figure(config: SkipTrigramToy, reporter: Reporter) -> Any:
    """Attention of A with and without C, in the hand-built head and in a trained one; the interaction over L."""
    figure, axes = panels(3, width=13, height=3.6)
    stack = train(config, reporter)
    best = stack.into(config.build(), int(stack.loss.argmin())).double()
    row = torch.tensor([[FILLER] * config.n_fillers + [B, C, A]])
    heads = (("hand-built", hand_built(config), BLANK), ("trained", best, None))
    for ax, (title, module, absent) in zip(axes[:2], heads, strict=True):
        network, rows = load_network(module, example_inputs=row), cells(row, absent)
        both, b = (network.read(rows[i], [PATTERN])[PATTERN][0].numpy() for i in (0, 1))
        place = np.arange(len(both))
        ax.bar(place - 0.2, b, 0.4, color="tab:blue", label="C absent")
        ax.bar(place + 0.2, both, 0.4, color="tab:orange", label="C present")
        ax.set_xticks(place, ["f"] * config.n_fillers + ["B", "C"])
        ax.set(ylim=(0, 1.05), xlabel="token", title=f"{title} head")
        ax.legend(frameon=False)
    axes[0].set_ylabel("attention from A")
    lengths = np.unique(np.geomspace(1, 1000, 40).round())
    alone, beside = WEIGHT_B / (lengths + WEIGHT_B), WEIGHT_B / (lengths + WEIGHT_B + WEIGHT_C)
    axes[2].plot(lengths, beside - alone, color="tab:blue", label="head")
    axes[2].axhline(0, color="0.6", linestyle="--", label="any additive table")
    axes[2].set(xscale="log", xlabel="fillers L", ylabel="interaction of B and C", title="hand-built, by length")
    axes[2].legend(frameon=False)
    return figure


ENTRY = Entry(
    SkipTrigramToy,
    (
        Experiment("exact", "fast", "the hand-built head to 1e-4, and its additive nulls", exact),
        Experiment("trained", "fast", "no additive table fits a trained head", trained),
    ),
    {"attention": attention_figure},
)
