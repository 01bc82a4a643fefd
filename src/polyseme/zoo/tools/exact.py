"""What the exact dictionary toys share: small planted data, and many dictionaries trained on them in one pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from polyseme.activations.memory import TensorSource
from polyseme.core.binding import Binding
from polyseme.core.config import Config, Count, Rate, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.core.site import Site
from polyseme.dictionaries import DictionaryConfig, SparseDictionary
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

SITE = Site(path="mixture")
Start = Literal["at the truth", "at random", "at random, b_dec at the mean"]
"""Weights with which a dictionary's training starts; its b_dec is 0 in raw units unless it is at the data's mean."""


class Mixture(nn.Module):
    """x = v F + b, carried by the module `mixture`, so that planted data are read as any network's activations are.

    Args:
        directions: F `[feature, d]`.
        bias: b; None for 0.
    """

    def __init__(self, directions: Float[Tensor, "feature d"], bias: Float[Tensor, " d"] | None = None):
        super().__init__()
        self.directions = nn.Parameter(directions.clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.clone(), requires_grad=False)
        self.mixture = nn.Identity()

    def forward(self, values: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch d"]:
        x = values @ self.directions
        return self.mixture(x if self.bias is None else x + self.bias)


class ShortTraining(Config):
    """How the dictionaries of an exact toy are trained."""

    steps: Count = 1_500
    batch: Width = 512
    rows: Width = 50_000
    """Distinct vectors, repeated as often as the steps need."""
    lr: Rate = 5e-3

    @model_validator(mode="after")
    def _possible(self) -> "ShortTraining":
        if self.batch > self.rows:
            raise ValueError(f"a batch of {self.batch} is more than the {self.rows} rows")
        return self


def crowded(n_features: int, d: int) -> str:
    """Why features cannot be orthogonal; empty where they can."""
    return f"{n_features} orthogonal features do not fit into {d} dimensions" if n_features > d else ""


@dataclass(frozen=True)
class Directions:
    """All that causal effects need of a dictionary: the direction that each latent writes."""

    directions: Float[Tensor, "n_latents d"]

    @property
    def n_latents(self) -> int:
        return len(self.directions)

    def write_directions(self) -> Float[Tensor, "n_latents d"]:
        """The directions."""
        return self.directions


def orthonormal(n_features: int, d: int, seed: int) -> Float[Tensor, "feature d"]:
    """Random orthonormal directions."""
    rows = torch.randn(d, n_features, generator=make_generator(seed, "orthonormal directions"))
    return torch.linalg.qr(rows).Q.T.contiguous()


def planted(
    n_features: int,
    d: int,
    seed: int,
    draw: Callable[[int, torch.Generator], Float[Tensor, "row feature"]],
    setting: Mapping[str, float | int | str],
) -> TrainedToy:
    """The mixture of orthonormal features f0, f1, …, made and not trained: its loss is 0.

    Args:
        n_features, d: the number of features and of dimensions.
        seed: seed of the directions.
        draw: draws the features' values for a number of rows.
        setting: what sets the toy apart.
    """
    F = orthonormal(n_features, d, seed)
    truth = Truth(site=SITE, features=tuple(f"f{i}" for i in range(n_features)), directions=F)

    def sample(n: int, generator: torch.Generator) -> Sample:
        values = draw(n, generator)
        return Sample(inputs=values, features=values)

    return TrainedToy(Mixture(F), truth, sample, seed, dict(setting), loss=0.0, ceiling=0.0)


def features_of(toy: TrainedToy) -> Float[Tensor, "feature d"]:
    """The true directions."""
    assert toy.truth.directions is not None
    return toy.truth.directions


def rows_of(toy: TrainedToy, n: int) -> Float[Tensor, "row d"]:
    """The vectors that a toy's dictionaries are trained on."""
    return toy.activations(n, make_generator(toy.seed, "train"))[0]


def started(
    config: DictionaryConfig, toy: TrainedToy, x: Float[Tensor, "row d"], start: Start, *, name: str
) -> SparseDictionary:
    """A dictionary to be trained on a toy's vectors x; `name` and the toy's seed decide its random weights."""
    dictionary = config.build(x.shape[1], seed=derive_seed(toy.seed, name))
    assert isinstance(dictionary, SparseDictionary)
    if start == "at the truth":
        start_at_truth(dictionary, features_of(toy), x)
    elif start == "at random":
        start_without_bias(dictionary, x)
    return dictionary


def train_on(
    toy: TrainedToy,
    x: Float[Tensor, "row d"],
    dictionaries: Mapping[Any, SparseDictionary],
    config: ShortTraining,
    reporter: Reporter,
) -> None:
    """Train dictionaries in place on a toy's vectors, all in one pass."""
    source = TensorSource({"mixture": x}, seed=derive_seed(toy.seed, "order"))
    jobs = [Job(str(key), dictionary, Binding.at("mixture"), toy.seed) for key, dictionary in dictionaries.items()]
    training = TrainingConfig(n_tokens=config.steps * config.batch, batch_size=config.batch, lr=config.lr)
    fit(jobs, source, training, reporter=reporter)


@torch.no_grad()
def start_without_bias(dictionary: SparseDictionary, x: Float[Tensor, "row d"]) -> None:
    """Let b_dec start at 0 in raw units, not at the data's mean.

    Training centres and scales the vectors by its first batch, and b_dec cancels the centre. The centre of all the
    vectors stands in for it, which leaves the error of one batch's mean.
    """
    mean = x.double().mean(0)
    scale = (x.double() - mean).square().mean().sqrt()
    dictionary.parameters()["b_dec"].copy_(-mean / scale)


@torch.no_grad()
def start_at_truth(dictionary: SparseDictionary, F: Float[Tensor, "feature d"], x: Float[Tensor, "row d"]) -> None:
    """Weights with which latent i is feature i: W_dec = W_enc = F of unit length, and no bias in raw units."""
    parameters = dictionary.parameters()
    parameters["W_dec"].copy_(F)
    parameters["W_enc"].copy_(F)
    parameters["b_enc"].zero_()
    start_without_bias(dictionary, x)


def fvu(dictionary: SparseDictionary, x: Float[Tensor, "row d"]) -> float:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
    wide = x.double()
    return float((dictionary.reconstruct(x).double() - wide).square().sum() / (wide - wide.mean(0)).square().sum())


def bias(dictionary: SparseDictionary) -> Float[Tensor, " d"]:
    """What is written where no latent is active."""
    return dictionary.folded().parameters()["b_dec"]


def l1_coefficient(penalty: float, x: Float[Tensor, "row d"]) -> float:
    """The coefficient that makes polyseme's loss proportional to Σ‖x − x̂‖² + penalty × Σ f‖w‖ in the data's own units.

    Training scales the data by s to a mean squared norm of d about their mean: errors by 1/s², activations by 1/s.
    """
    return penalty / float((x - x.mean(0)).double().square().mean().sqrt())


def components(directions: Float[Tensor, "n_latents d"], F: Float[Tensor, "feature d"]) -> Float[Tensor, "_ feature"]:
    """Cosines of latents' directions with every feature."""
    return torch.nn.functional.normalize(directions, dim=1) @ torch.nn.functional.normalize(F, dim=1).T


def own_latents(cosines: Float[Tensor, "n_latents feature"]) -> list[int]:
    """The latent of each feature, by the one-to-one matching of the largest summed cosine; −1 where latents run out."""
    from scipy.optimize import linear_sum_assignment

    latents, features = linear_sum_assignment(cosines.numpy(), maximize=True)
    of = dict(zip(features.tolist(), latents.tolist(), strict=True))
    return [of.get(feature, -1) for feature in range(cosines.shape[1])]


def untrained(scores: Sequence[float], ceiling: float) -> str:
    """Why nothing is measured: a dictionary whose FVU is above what it can reach; empty where all are below."""
    above = sum(not score <= ceiling for score in scores)
    return f"{above} of {len(scores)} dictionaries did not train: FVU above {ceiling:.3g}" if above else ""


def cosine_map(axis: Any, cosines: Float[Tensor, "n_latents feature"], *, title: str, left: bool = True) -> None:
    """Draw cosines of latents (rows) with features (columns), the numbers written in."""
    axis.imshow(cosines.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for row, of_latent in enumerate(cosines.tolist()):
        for column, value in enumerate(of_latent):
            ink = "w" if abs(value) > 0.6 else "k"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, size=8)
    axis.set(
        xticks=range(cosines.shape[1]),
        xticklabels=[f"f{i}" for i in range(cosines.shape[1])],
        yticks=range(len(cosines)),
        yticklabels=[f"latent {i}" for i in range(len(cosines))] if left else [],
        title=title,
    )
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
