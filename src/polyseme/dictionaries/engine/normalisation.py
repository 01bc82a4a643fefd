"""The units that a dictionary computes in: centre and scale of its inputs and targets, from the first batch."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.batch import Batch
from polyseme.core.errors import InputError
from polyseme.core.precision import wide
from polyseme.kernels.tuning import Tuning
from polyseme.kernels.workspace import scratch


@final
class Normalisation:
    """(vectors − centre) / scale at two ports, `in` for what is read and `out` for what is written.

    Centring first makes training blind to a shift of the data, and the scale (mean squared norm about the mean = width)
    to a rescaling. It is also what starts b_dec at the data's mean.

    Args:
        d_in, d_out: widths of the ports.
        like: of the dictionary's device and dtype.
        tuning: of the dictionary.

    Attributes:
        tensors: centre and scale of each port, live; 0 and 1 until they are taken.
    """

    def __init__(self, d_in: int, d_out: int, like: Tensor, tuning: Tuning):
        self._widths, self._tuning = {"in": d_in, "out": d_out}, tuning
        centres = {f"centre_{port}": like.new_zeros(width) for port, width in self._widths.items()}
        self.tensors = {**centres, **{f"scale_{port}": like.new_ones(()) for port in self._widths}}

    @property
    def is_taken(self) -> bool:
        """True once centre and scale are a batch's."""
        return any(bool((t != (1 if name.startswith("scale") else 0)).any()) for name, t in self.tensors.items())

    def take(self, batch: Batch) -> None:
        """Take centre and scale of both ports from a batch, or none of them.

        Raises:
            InputError: when the vectors are not finite, all alike, or not as wide as the port.
        """
        found = [(port, *self._measured(vectors, port)) for port, vectors in (("in", batch.x), ("out", batch.y))]
        for port, centre, scale in found:
            self.tensors[f"centre_{port}"].copy_(centre)
            self.tensors[f"scale_{port}"].copy_(scale)

    def apply(self, vectors: Tensor, port: str) -> Float[Tensor, "batch d"]:
        """The vectors in these units, in the dictionary's dtype.

        Raises:
            InputError: when they are not as wide as the port.
        """
        self._check_width(vectors, port)
        centre, scale = self.tensors[f"centre_{port}"], self.tensors[f"scale_{port}"]
        return torch.sub(vectors.to(centre), centre, out=scratch(port, vectors, centre.dtype)).div_(scale)

    def _measured(self, vectors: Tensor, port: str) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
        self._check_width(vectors, port)
        rows = self._tuning.tiles(len(vectors), 32 * vectors.shape[1])  # few in float64 at a time
        parts = [vectors[some] for some in rows]
        centre = torch.stack([wide(part).sum(0) for part in parts]).sum(0) / len(vectors)
        squares = torch.stack([(wide(part) - centre).square().sum() for part in parts]).sum()
        scale = (squares / vectors.numel()).sqrt()
        is_finite = bool(torch.isfinite(scale))
        if not is_finite or float(scale) <= 1e-12 * float(centre.abs().max()):
            raise InputError(
                "the activations are all equal" if is_finite else "the activations are not finite",
                where=f"first training batch, port {port}",
                fix="look at the site and at the network's outputs there",
            )
        return centre, scale

    def _check_width(self, vectors: Tensor, port: str) -> None:
        width = self._widths[port]
        if vectors.dim() != 2 or vectors.shape[1] != width or len(vectors) == 0:
            raise InputError(
                f"expected vectors [..., {width}], got {list(vectors.shape)}",
                where=f"dictionary, port {port}",
                fix=f"give it a non-empty batch of a site of width {width}, or build a dictionary of another width",
            )
