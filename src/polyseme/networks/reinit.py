"""Re-initialised networks: what a network is worth beyond its architecture and the statistics of its weights.

Three nulls, each keeping more or less of a weight matrix W:

- `gaussian`: independent Gaussian entries with W's mean and standard deviation, exactly.
- `spectrum`: W = UΣVᵀ becomes QΣRᵀ with Q and R Haar-distributed (QR of a Gaussian matrix, columns multiplied by the
  signs of R's diagonal: Mezzadri 2007, How to generate random matrices from the classical compact groups), so that
  W keeps its singular values and loses its directions.
- `permuted`: W's own entries in random order, so that it keeps its histogram.

Parameters with one axis (biases, gains of norms) are always kept. A tensor of more than two axes (a convolution) is
treated as the matrix of its first axis against the rest.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.core.config import Config, Seed
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import make_generator
from polyseme.native.shield import shielded
from polyseme.networks.weights import weights_fingerprint


class ReinitConfig(Config):
    """A network's weights made random, with chosen statistics kept."""

    kind: Literal["gaussian", "spectrum", "permuted"]
    """gaussian keeps each matrix's mean and standard deviation, spectrum its singular values, permuted its entries."""
    keep_embeddings: bool = False
    """Keep the input's embeddings (tokens, positions, patches). An unembedding tied to them is the same matrix, so it
    stays too; one of its own is re-initialised."""
    seed: Seed = 0
    """Each parameter's randomness depends on this and on its name alone."""

    def build(
        self, module: nn.Module, *, embeddings: Collection[str] = (), reporter: Reporter | None = None
    ) -> "ReinitRecord":
        """Re-initialise `module` in place; see `reinitialise`."""
        return reinitialise(module, self, embeddings=embeddings, reporter=reporter)


@dataclass(frozen=True)
class ReinitRecord:
    """What a re-initialisation changed, by parameter name.

    Attributes:
        config: how.
        source: fingerprint of the network it was made from.
        replaced: parameters that are random now.
        kept: parameters that are as they were: one-axis parameters, and the embeddings where those were to be kept.
        tied: for each parameter with several names, all of them; one is an embedding when any of its names is, so a
            tied unembedding is kept or replaced with the token embedding.
    """

    config: ReinitConfig
    source: str
    replaced: tuple[str, ...]
    kept: tuple[str, ...]
    tied: tuple[tuple[str, ...], ...]


@shielded
@torch.no_grad()
def reinitialise(
    module: nn.Module,
    config: ReinitConfig,
    *,
    embeddings: Collection[str] = (),
    reporter: Reporter | None = None,
) -> ReinitRecord:
    """Re-initialise `module`'s weight matrices in place.

    Weights that several modules share are drawn once, and stay shared.

    Args:
        module: the network.
        config: how.
        embeddings: names of parameters that embed the input, beside the weights of every `nn.Embedding`.
        reporter: receives how many weights are drawn; a spectrum takes a singular value decomposition of each matrix.
    """
    source = weights_fingerprint(module, reporter)
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
    progress = (reporter or Silent()).task(f"random weights ({config.kind})", total, "weights")
    for key, parameter in parameters.items():
        name = min(names[key])
        is_kept = parameter.dim() < 2 or (config.keep_embeddings and key in embedding)
        (kept if is_kept else replaced).append(name)
        if not is_kept:
            generator = make_generator(config.seed, "reinit", config.kind, name)
            parameter.copy_(_DRAWS[config.kind](_matrix(parameter), generator).reshape(parameter.shape))
        done += parameter.numel()
        progress.update(done)
    tied = tuple(sorted(tuple(sorted(known)) for known in names.values() if len(known) > 1))
    return ReinitRecord(config, source, tuple(sorted(replaced)), tuple(sorted(kept)), tied)


def _matrix(parameter: Tensor) -> Float[Tensor, "rows columns"]:
    """The parameter as a float64 matrix on the CPU; leading axes of length one are dropped first."""
    while parameter.dim() > 2 and parameter.shape[0] == 1:
        parameter = parameter[0]
    return parameter.detach().to("cpu", torch.float64).flatten(1)


def _gaussian(weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    noise -= noise.mean()
    spread = noise.std(correction=0)
    if spread > 0:
        noise /= spread
    return weight.mean() + weight.std(correction=0) * noise


def _spectrum(weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    singular = torch.linalg.svdvals(weight)
    left = _haar(weight.shape[0], len(singular), generator)
    right = _haar(weight.shape[1], len(singular), generator)
    return (left * singular) @ right.T


def _haar(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """The first `columns` columns of a Haar-distributed orthogonal matrix."""
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(torch.float64)


def _permuted(weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    order = torch.randperm(weight.numel(), generator=generator)
    return weight.flatten()[order].reshape(weight.shape)


_DRAWS = {"gaussian": _gaussian, "spectrum": _spectrum, "permuted": _permuted}
