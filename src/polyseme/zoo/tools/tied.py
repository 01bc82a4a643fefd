"""The loss of x' = ReLU(WᵀWx + b) over a stack of networks, with its gradient by hand.

All of the cost are passes over `[instance, row, feature]`. So they are made a block at a time, small enough to stay in
cache from one pass to the next, the gradient right after the loss; autograd makes twice as many, each through memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.zoo.tools.stack import BLOCK_BYTES


def tied_loss(
    W: Float[Tensor, "instance hidden feature"],
    b: Float[Tensor, "instance feature"],
    x: Float[Tensor, "instance row feature"],
    *,
    of_row: Float[Tensor, "instance row"] | float,
    of_feature: Float[Tensor, "instance feature"] | None = None,
    privileged: bool = False,
) -> Float[Tensor, " instance"]:
    """Σ_r w_r Σ_i I_i (x_ri − x'_ri)² of every instance, with its gradient to W and b.

    Args:
        W, b: the networks.
        x: their rows.
        of_row: w, one weight for all or one a row.
        of_feature: I; None: 1.
        privileged: a ReLU in the hidden layer, too: x' = ReLU(Wᵀ ReLU(Wx) + b).
    """
    apply: Any = _TiedLoss.apply
    return apply(W, b, x, of_row, of_feature, privileged)


class _TiedLoss(torch.autograd.Function):
    """With h = [Wx, 1], V = [W; b], e = x' − x and g = w e where x' > 0, else 0:

        ∂V = 2 I (hᵀ g)          and ∂W += 2 (g (I W)ᵀ)ᵀ x

    so that the bias and I cost no pass over the rows.
    """

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, b: Tensor, x: Tensor, of_row: Tensor | float, of_feature: Tensor | None, privileged: bool
    ) -> Tensor:
        m = W.shape[1]
        V = torch.cat([W, b[:, None]], dim=1)
        heavy = W if of_feature is None else W * of_feature[:, None]
        squares, to_V, to_W = torch.zeros_like(b), torch.zeros_like(V), torch.zeros_like(W)
        for at, rows in _blocks(x):
            part = x[at, rows]
            hidden = torch.nn.functional.pad(part @ W[at].mT, (0, 1), value=1.0)
            if privileged:
                hidden.relu_()
            out = torch.bmm(hidden, V[at]).relu_()
            error = out - part
            g = error * of_row[at, rows, None] if isinstance(of_row, Tensor) else error
            squares[at] += (error * g).sum(1)
            if not any(ctx.needs_input_grad):
                continue
            g = torch.ops.aten.threshold_backward(g, out, 0)
            to_V[at] += torch.bmm(hidden.mT, g)
            back = torch.bmm(g, heavy[at].mT)
            if privileged:
                back = torch.ops.aten.threshold_backward(back, hidden[..., :m], 0)
            to_W[at] += torch.bmm(back.mT, part)
        scale = 1.0 if isinstance(of_row, Tensor) else of_row
        if of_feature is not None:
            squares *= of_feature
            to_V *= of_feature[:, None]
        to_W.add_(to_V[:, :m])
        ctx.save_for_backward(to_W.mul_(2 * scale), to_V[:, m] * (2 * scale))
        return squares.sum(1).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        to_W, to_b = ctx.saved_tensors
        scale = grad_outputs[0]
        return scale[:, None, None] * to_W, scale[:, None] * to_b, None, None, None, None


def _blocks(x: Float[Tensor, "instance row feature"]) -> Iterator[tuple[slice, slice]]:
    """Instances and rows of each block: whole instances where they fit, else some of the rows of one.

    Rows a block do not depend on the number of instances, so that neither does the sum over them.
    """
    n_instances, n_rows, n_features = x.shape
    row_bytes = n_features * x.element_size()
    rows = max(1, min(n_rows, BLOCK_BYTES // row_bytes))
    instances = max(1, BLOCK_BYTES // (rows * row_bytes)) if rows == n_rows else 1
    for i in range(0, n_instances, instances):
        for r in range(0, n_rows, rows):
            yield slice(i, i + instances), slice(r, r + rows)
