"""Networks with random weights: what a network is worth beyond its architecture and the statistics of its weights.

Parameters with one axis (biases, gains of norms) are always kept. A tensor of more than two axes (a convolution) is
treated as the matrix of its first axis against the rest.
"""

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import make_generator
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.nulls.protocol import Null, Target, kind_of, with_seed


class WeightNull(Null):
    """A network whose weight matrices are random; a kind of it says how one is drawn, what that keeps and destroys."""

    targets: ClassVar[Target] = "weights"
    stream: ClassVar[str]
    """Names its random numbers."""

    keep_embeddings: bool = False
    """Keep the input's embeddings (tokens, positions, patches): a null that still knows which token it reads. An
    unembedding tied to them is the same matrix, so it stays too; one of its own is made random."""

    @property
    def preserves(self) -> str:
        if not self.keep_embeddings:
            return self.kept
        return f"{self.kept}; the input embeddings as they are, and an unembedding that is tied to them"

    @property
    def destroys(self) -> str:
        return f"{self.lost}, except in the input embeddings" if self.keep_embeddings else self.lost

    @property
    def name(self) -> str:
        kind = kind_of(self)
        return with_seed(f"{kind}_keep_embeddings" if self.keep_embeddings else kind, self.seed)

    @property
    def made(self) -> dict[str, object]:
        """What decides the weights, as JSON."""
        return self.with_version({"kind": self.stream, "keep_embeddings": self.keep_embeddings, "seed": self.seed})

    @abstractmethod
    def draw(self, weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
        """A random matrix in the place of `weight`, which is on the CPU and float32 or float64."""

    def network(self, network: Network, reporter: Reporter | None = None) -> Network:
        """The network with random weights, on a copy of its module; `network` stays as it is.

        Args:
            network: any; where it is one of random weights itself, its weights are what is kept of.
            reporter: receives how many weights are drawn.
        """

        def change(module: nn.Module, embeddings: Collection[str]) -> None:
            randomise(module, self, embeddings=embeddings, reporter=reporter)

        # Named by what it was made from: linear algebra may differ in the last bit between machines.
        return network.changed(change, {"reinit": self.made})


@dataclass(frozen=True)
class Randomised:
    """What became of the parameters of a module, by name.

    Attributes:
        replaced: parameters that are random now.
        kept: parameters that are as they were: one-axis parameters, and the embeddings where those were to be kept.
        tied: for each parameter with several names, all of them; one is an embedding when any of its names is, so a
            tied unembedding is kept or replaced with the token embedding.
    """

    replaced: tuple[str, ...]
    kept: tuple[str, ...]
    tied: tuple[tuple[str, ...], ...]


@shielded
@torch.no_grad()
def randomise(
    module: nn.Module, null: WeightNull, *, embeddings: Collection[str] = (), reporter: Reporter | None = None
) -> Randomised:
    """Make `module`'s weight matrices random, in place.

    Weights that several modules share are drawn once, and stay shared; each parameter's randomness depends on the
    null's seed and on its own name alone.

    Args:
        module: of a network.
        null: says how a matrix is drawn.
        embeddings: names of parameters that embed the input, beside the weights of every `nn.Embedding`.
        reporter: receives how many weights are drawn.
    """
    names: dict[int, list[str]] = {}
    parameters: dict[int, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    embedding = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    embedding |= {key for key, known in names.items() if not set(known).isdisjoint(embeddings)}
    replaced: list[str] = []
    kept: list[str] = []
    total, done = sum(parameter.numel() for parameter in parameters.values()), 0
    progress = (reporter or Silent()).task(f"random weights ({null.stream})", total, "weights")
    for key, parameter in parameters.items():
        name = min(names[key])
        is_kept = parameter.dim() < 2 or (null.keep_embeddings and key in embedding)
        (kept if is_kept else replaced).append(name)
        if not is_kept:
            generator = make_generator(null.seed, "reinit", null.stream, name)
            parameter.copy_(null.draw(_matrix(parameter), generator).reshape(parameter.shape))
        done += parameter.numel()
        progress.update(done)
    tied = tuple(sorted(tuple(sorted(known)) for known in names.values() if len(known) > 1))
    return Randomised(tuple(sorted(replaced)), tuple(sorted(kept)), tied)


def _matrix(parameter: Tensor) -> Float[Tensor, "rows columns"]:
    """The parameter as a matrix on the CPU, of float32 or more; leading axes of length one are dropped first."""
    while parameter.dim() > 2 and parameter.shape[0] == 1:
        parameter = parameter[0]
    return parameter.detach().cpu().to(torch.promote_types(parameter.dtype, torch.float32)).flatten(1)
