"""Pre-activations whose bits depend on a vector and a latent alone, not on the vectors beside it.

A product of matrices adds in an order that depends on its shape, on the number of threads and on the library, and so do
the last bits of each number in it. Here every number is a sum of its own, of 32 partial sums in float64,

    s_l = Σ_i x_{32 i + l} w_{32 i + l}        l = 0 … 31, i ascending

which are halved (the first half plus the second) until one is left; the bias is added, and the result rounded once.
Products of float32 are exact in float64, so that C, torch and any processor give the same bits.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.kernels import compiled
from polyseme.kernels import library as native
from polyseme.kernels.tuning import DEFAULT, Tuning

_LANES = 32


def exact_affine(
    x: Float[Tensor, "bag d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    tuning: Tuning = DEFAULT,
) -> Float[Tensor, " entry"]:
    """x[bag] · weight[index] + bias[index] of each entry.

    Args:
        x, weight, bias: of the product.
        indices: the latent of each entry, int32.
        offsets: where each row's entries begin, and the end.
    """
    if tuning.in_loops(x, weight, bias) and native.has("polyseme_exact"):
        return compiled.exact(x, weight, bias, indices, offsets.to(torch.int32))
    out, d = x.new_empty(len(indices)), x.shape[1]
    bags = torch.repeat_interleave(offsets.diff().long(), output_size=len(indices))
    for part in tuning.tiles(len(indices), 4 * 8 * d):
        products = wide(x[bags[part]]) * wide(weight[indices[part]])
        products = torch.nn.functional.pad(products, (0, -d % _LANES)).view(len(products), -1, _LANES)
        sums = products[:, 0].clone()
        for i in range(1, products.shape[1]):
            sums += products[:, i]
        while sums.shape[1] > 1:
            sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
        out[part] = (sums[:, 0] + wide(bias[indices[part]])).to(out.dtype)
    return out
