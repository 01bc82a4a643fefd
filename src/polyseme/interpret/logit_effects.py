"""Which next tokens a latent's write direction raises and lowers, along the direct path only."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.corpora.spelling import TokenTexts
from polyseme.interpret.records import TokenWeight


@torch.no_grad()
def logit_effects(
    write: Float[Tensor, "latent d_out"],
    unembedding: Float[Tensor, "vocab d_model"],
    texts: TokenTexts,
    *,
    n: int = 8,
    chunk: int = 256,
) -> list[tuple[tuple[TokenWeight, ...], tuple[TokenWeight, ...]]]:
    """Top and bottom logit effects of each write direction: W_U d, less its mean over the vocabulary.

    The direct path: what the direction would add to the logits if no later layer and no final norm stood between.
    Nothing is folded into the unembedding. The mean is taken off because a softmax does not see it. Effects are for
    one unit of activation.

    Args:
        write: one direction a latent, raw activation space.
        unembedding: one row a token.
        texts: token ids to text.
        n: how many at each end.
        chunk: latents a block; memory is `chunk * vocab` floats.

    Returns:
        For each latent (highest first, lowest first).

    Raises:
        ValueError: the widths differ: the site is not in the residual stream.
    """
    if write.shape[1] != unembedding.shape[1]:
        raise ValueError(
            f"write directions have width {write.shape[1]}, the unembedding {unembedding.shape[1]}: logit effects are "
            "defined for sites that write to the residual stream"
        )
    n = min(n, len(unembedding))
    out: list[tuple[tuple[TokenWeight, ...], tuple[TokenWeight, ...]]] = []
    for block in write.float().split(chunk):
        effects = block @ unembedding.float().T
        effects = effects - effects.mean(dim=1, keepdim=True)
        high, low = effects.topk(n, dim=1), effects.topk(n, dim=1, largest=False)
        out += [
            (_weights(hi.tolist(), hv.tolist(), texts), _weights(li.tolist(), lv.tolist(), texts))
            for hi, hv, li, lv in zip(high.indices, high.values, low.indices, low.values, strict=True)
        ]
    return out


def _weights(tokens: Sequence[int], values: Sequence[float], texts: TokenTexts) -> tuple[TokenWeight, ...]:
    return tuple(TokenWeight(token=texts[t], value=v) for t, v in zip(tokens, values, strict=True))
