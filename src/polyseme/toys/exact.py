"""What the exact dictionary toys share: small planted data, and many dictionaries trained on them in one pass."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations.memory import TensorSource
from polyseme.core.config import Config
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import SparseDictionary
from polyseme.toys.planted_sparse import Mixture
from polyseme.toys.toy import TrainedToy
from polyseme.training import Job, TrainingConfig, fit


class ShortTraining(Config):
    """How the dictionaries of an exact toy are trained."""

    steps: int = 3_000
    batch: int = 512
    rows: int = 50_000
    """Distinct vectors, gone round as often as the steps need."""
    lr: float = 3e-3


def orthonormal(n_features: int, d: int, seed: int) -> Float[Tensor, "feature d"]:
    """Random orthonormal directions."""
    rows = torch.randn(d, n_features, generator=make_generator(seed, "orthonormal directions"))
    return torch.linalg.qr(rows).Q.T.contiguous()


def rows_of(toy: TrainedToy, n: int) -> Float[Tensor, "row d"]:
    """The vectors that a toy's dictionaries are trained on."""
    return toy.activations(n, make_generator(toy.seed, "train"))[0]


def train_on(
    toy: TrainedToy, dictionaries: Mapping[str, SparseDictionary], config: ShortTraining, reporter: Reporter
) -> None:
    """Train dictionaries in place on a toy's vectors, all in one pass."""
    source = TensorSource({"mixture": rows_of(toy, config.rows)}, seed=derive_seed(toy.seed, "order"))
    jobs = [Job(name, dictionary, "mixture", "mixture", toy.seed) for name, dictionary in dictionaries.items()]
    training = TrainingConfig(n_tokens=config.steps * config.batch, batch_size=config.batch, lr=config.lr)
    fit(jobs, source, training, reporter=reporter)


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


def components(directions: Float[Tensor, "n_latents d"], mixture: Mixture) -> Float[Tensor, "n_latents feature"]:
    """Cosines with every feature."""
    return torch.nn.functional.normalize(directions, dim=1) @ torch.nn.functional.normalize(mixture.directions, dim=1).T


def means(values: Sequence[float]) -> str:
    """Low to high, for a note."""
    return f"{min(values):.3f} to {max(values):.3f}"
