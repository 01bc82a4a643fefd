"""Modular addition: a one-layer transformer that learns a + b mod p by rotations, long after it has memorised.

Tokens `a b =`, read at the last position; no LayerNorm, full-batch AdamW with weight decay 1. Nanda et al. 2023.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from polyseme.core.config import Count, Seeds, Width
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.core.site import Site
from polyseme.store.checkpoints import load_checkpoint, save_checkpoint
from polyseme.zoo.tools.stack import Draws, History, OptimiserConfig, Parameters, train_stack
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")


def stream(
    parameters: Parameters, a: Int[Tensor, "instance row"], b: Int[Tensor, "instance row"]
) -> Float[Tensor, "instance row d"]:
    """The residual stream at `=` after the attention.

    The last position's query is the same for every row, and a key or value depends on one token and its position: both
    are computed once for each token instead of once for each row.
    """
    W_E, W_pos = parameters["W_E"], parameters["W_pos"]
    p, n_heads, d_head = W_E.shape[1] - 1, parameters["W_Q"].shape[1], parameters["W_Q"].shape[-1]
    last = W_E[:, p] + W_pos[:, 2]
    query = torch.einsum("id,ihde->ihe", last, parameters["W_Q"])
    read = torch.einsum("ihe,ihde->ihd", query, parameters["W_K"]) / d_head**0.5
    write = torch.einsum("ihde,ihef->ihdf", parameters["W_V"], parameters["W_O"])
    first, second = W_E[:, :p] + W_pos[:, :1], W_E[:, :p] + W_pos[:, 1:2]

    score = [torch.einsum("itd,ihd->iht", table, read) for table in (first, second)]
    of_row = [
        table.gather(2, token[:, None].expand(-1, n_heads, -1)) for table, token in zip(score, (a, b), strict=True)
    ]
    of_last = torch.einsum("id,ihd->ih", last, read)[..., None].expand_as(of_row[0])
    attention = torch.stack([*of_row, of_last], dim=-1).softmax(-1).transpose(1, 2)
    # What a row takes from a table of head × token is a product with its attention there: far quicker, forward and
    # backward, than gathering a vector for every row and head.
    taken = [
        first.new_zeros(*a.shape, n_heads, p).scatter(3, token[:, :, None, None].expand(-1, -1, n_heads, 1), weight)
        for token, weight in ((a, attention[..., 0:1]), (b, attention[..., 1:2]))
    ]
    tables = [torch.einsum("itd,ihdf->ihtf", x, write) for x in (first, second, last[:, None])]
    weights = torch.cat([*(part.flatten(2) for part in taken), attention[..., 2]], dim=2)
    return torch.baddbmm(last[:, None], weights, torch.cat([table.flatten(1, 2) for table in tables], dim=1))


def neurons(parameters: Parameters, middle: Float[Tensor, "instance row d"]) -> Float[Tensor, "instance row neuron"]:
    """The MLP's activations."""
    return torch.relu(torch.baddbmm(parameters["b_in"][:, None], middle, parameters["W_in"]))


def read_out(parameters: Parameters, middle: Tensor, hidden: Tensor) -> Float[Tensor, "instance row p"]:
    """Logits of the stream after the MLP."""
    W_L = parameters["W_out"] @ parameters["W_U"]  # fewer columns than W_out has
    return (middle + parameters["b_out"][:, None]) @ parameters["W_U"] + hidden @ W_L


class Transformer(nn.Module):
    """One network of a stack, on tokens `[row, 3]`; `hidden` are its neurons at `=`."""

    def __init__(self, parameters: Parameters):
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(tensor.clone()) for name, tensor in parameters.items()})
        self.hidden = nn.Identity()

    def forward(self, tokens: Int[Tensor, "row 3"]) -> Float[Tensor, "row p"]:
        stack = {name: tensor[None] for name, tensor in self.weights.items()}
        middle = stream(stack, tokens[None, :, 0], tokens[None, :, 1])
        hidden: Tensor = self.hidden(neurons(stack, middle)[0])
        return read_out(stack, middle, hidden[None])[0]


class ModularAdditionToy(Toy):
    """Networks of one modulus, one for each seed, which decides the weights and the training pairs."""

    title: ClassVar[str] = "modular addition"
    paper: ClassVar[str] = "Nanda et al. 2023, Progress Measures for Grokking via Mechanistic Interpretability"

    p: int = Field(default=53, ge=5, le=10_000)
    """The modulus, an odd number; the paper's is 113."""
    train_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the p² pairs that are trained on; the paper's is 0.3 at p = 113."""
    d_model: Width = 128
    n_heads: Width = 4
    d_mlp: Width = 512
    seeds: Seeds = (0, 1)
    optimiser: OptimiserConfig = OptimiserConfig(steps=6_000, lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98), warmup=10)
    record_every: Count = 100
    """Number of steps between two records of losses and weights."""

    @model_validator(mode="after")
    def _fits(self) -> "ModularAdditionToy":
        if self.p % 2 == 0:
            raise ValueError("p must be odd: at p / 2 a cosine has no sine beside it")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} does not divide into {self.n_heads} heads")
        return self

    def build(self) -> Transformer:
        """An untrained network."""
        return Transformer({name: tensor[0] for name, tensor in initial(self, self.seeds[:1]).items()})

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every seed, as one stack."""
        run = train(self, reporter)
        # p ↦ (cos, sin) planes of the embedding are the features the network has; which frequencies, its seed decides.
        truth = Truth(SITE, tuple(f"a + b = {c}" for c in range(self.p)), None, computed_at="mlp", cause=None)
        ceiling = 0.1  # memorised pairs leave a test loss above chance's ln p, a learned sum almost none
        modules = (Transformer({name: tensor[i] for name, tensor in run.last.items()}) for i in range(len(self.seeds)))
        return [
            TrainedToy(module, truth, self._draw, seed, {"p": self.p}, loss, ceiling)
            for module, seed, loss in zip(modules, self.seeds, run.test_loss[-1].tolist(), strict=True)
        ]

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        a, b = torch.randint(self.p, (2, n), generator=generator)
        tokens = torch.stack([a, b, torch.full_like(a, self.p)], dim=1)
        return Sample(inputs=tokens, features=nn.functional.one_hot((a + b) % self.p, self.p).float())


@dataclass(frozen=True)
class Run:
    """A training and its records.

    Attributes:
        config: the config of the toy.
        history: steps and training loss.
        test_loss, train_accuracy, test_accuracy: the measures at each record, `[record, instance]`.
        weights: the stack at each record.
        train_pairs: which of the p² pairs (a p + b) are trained on, `[instance, pair]`.
    """

    config: ModularAdditionToy
    history: History
    test_loss: Float[Tensor, "record instance"]
    train_accuracy: Float[Tensor, "record instance"]
    test_accuracy: Float[Tensor, "record instance"]
    weights: list[dict[str, Tensor]]
    train_pairs: Tensor

    @property
    def last(self) -> dict[str, Tensor]:
        """The stack at the end."""
        return self.weights[-1]


def initial(config: ModularAdditionToy, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Normal weights of variance 1 / d (1 / p for the unembedding), biases 0, as in the released code."""
    draws = Draws([derive_seed(seed, "modular addition") for seed in seeds], "initial")
    p, d, heads, n = config.p, config.d_model, config.n_heads, config.d_mlp
    shapes = {
        "W_E": (p + 1, d),
        "W_pos": (3, d),
        **dict.fromkeys(("W_Q", "W_K", "W_V"), (heads, d, d // heads)),
        "W_O": (heads, d // heads, d),
        "W_in": (d, n),
        "W_out": (n, d),
        "W_U": (d, p),
    }
    weights = {name: draws.normal(*shape) / (p if name == "W_U" else d) ** 0.5 for name, shape in shapes.items()}
    return weights | {"b_in": torch.zeros(len(seeds), n), "b_out": torch.zeros(len(seeds), d)}


def all_pairs(config: ModularAdditionToy) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The summands a and b of every pair a p + b."""
    pair = torch.arange(config.p**2)
    return pair // config.p, pair % config.p


def train(config: ModularAdditionToy, reporter: Reporter | None = None, checkpoints: Path | None = None) -> Run:
    """Train every seed at once, full batch.

    Args:
        config: the config of the toy.
        reporter: receives progress updates.
        checkpoints: a folder for this training alone, from which it resumes if it was killed; None keeps nothing.
    """
    p, n_seeds = config.p, len(config.seeds)
    a, b = all_pairs(config)
    n_train = round(config.train_share * p * p)
    order = torch.stack(
        [torch.randperm(p * p, generator=make_generator(seed, "modular addition", "split")) for seed in config.seeds]
    )
    rows, held = order[:, :n_train], order[:, n_train:]
    parameters = initial(config, config.seeds)
    target = (a + b) % p

    def measured(of: Parameters, index: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy on the pairs of `index`."""
        middle = stream(of, a[index], b[index])
        logits = read_out(of, middle, neurons(of, middle))
        # In float64, as in the released code: in float32 a confident loss rounds to 0, and the training has spikes.
        flat = cross_entropy(logits.flatten(0, 1).double(), target[index].flatten(), reduction="none")
        return flat.reshape(n_seeds, -1).mean(1), (logits.argmax(-1) == target[index]).float().mean(1)

    kept: dict[int, dict[str, Tensor]] = {}

    def record(step: int) -> None:
        kept[step] = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        if checkpoints is not None:
            save_checkpoint(checkpoints / "weights", step, kept[step], None, keep=config.optimiser.steps)

    history = train_stack(
        parameters,
        lambda _: measured(parameters, rows)[0],
        config.optimiser,
        reporter=reporter or Silent(),
        name="modular addition",
        record_every=config.record_every,
        on_record=record,
        checkpoints=checkpoints,
    )
    if checkpoints is not None:
        before = [step for step in history.steps if step not in kept]
        kept |= {step: load_checkpoint(checkpoints / "weights", step).tensors for step in before}
    weights = [kept[step] for step in history.steps]
    with torch.no_grad():
        found = [[torch.stack(measured(of, index)) for of in weights] for index in (rows, held)]
    (_, train_accuracy), (test_loss, test_accuracy) = (torch.stack(f, dim=1) for f in found)
    trained = torch.zeros(n_seeds, p * p, dtype=torch.bool).scatter_(1, rows, value=True)
    return Run(config, history, test_loss, train_accuracy, test_accuracy, weights, trained)
