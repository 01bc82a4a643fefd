"""Dead latents are given to vectors that are reconstructed badly (after Bricken et al. 2023, Towards monosemanticity,
appendix "Neuron resampling"; `docs/decisions/0035-dead-latents.md` has what was measured).

A latent that died keeps the small encoder row of its start, while those of the live ones grow and the value that a
latent must exceed to be active rises with them: AuxK trains its direction, and seldom carries it over that bar. Made
again from the error e of one vector u, it is over the bar there at once, and next to nowhere else:

    W_dec_j = ê = e / ‖e‖        W_enc_j = s ê        b_enc_j = value − s⟨ê, u⟩        s = max(spread, value / ⟨ê, u⟩)

with value = max(1.1 bar, 0.1 ‖e‖), so that b_enc_j ≤ 0. A positive bias would make it active wherever the dictionary's
other latents do nothing. The first value that it adds is about the bar, so a vector is taken only where that lowers its
error, value < 2 ‖e‖, and where ⟨ê, u⟩ > ‖e‖ / 2; the others are drawn with probability ∝ ‖e‖².
"""

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.dictionaries.engine.activation import Activation
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.tiles import bag_sum
from polyseme.kernels.tuning import spans

_OVER_BAR, _OF_ERROR = 1.1, 0.1
"""A latent's first value: over the bar by this factor, and at least this share of the error."""


def revive(
    encoder: Encoder,
    goal: Float[Tensor, "batch d_out"],
    activation: Activation,
    parameters: Mapping[str, Tensor],
    encoder_name: str,
    latents: Int[Tensor, " some"],
    *,
    live: Bool[Tensor, " n_latents"],
    frozen: Collection[str],
    reads_target: bool,
    spread: float,
    generator: torch.Generator,
) -> Int[Tensor, " revived"]:
    """Make latents again, each for a vector of its own, and return which: fewer where too few vectors are left for
    which it is worth it.

    A frozen row stays: the latent is given the vector that lies farthest along it (whose error does, where the decoder
    is frozen), unless an earlier one has it, and what is trained of the latent is set as ever.

    Args:
        encoder: over the vectors.
        goal: v − b_dec.
        activation, parameters, encoder_name: of the dictionary, changed in place.
        latents: to be made again, in order of precedence.
        live: latents that are not dead.
        frozen: names of the parameters that are not trained.
        reads_target: an autoencoder, whose encoder reads along what the decoder writes; a transcoder's reads û.
        spread: norm of an encoder row at the start.
        generator: on the CPU, decides which vectors are drawn.
    """
    W_dec, W_enc = parameters["W_dec"], parameters[encoder_name]
    errors, least = _errors(encoder, goal, activation, W_dec)
    norms = torch.linalg.vector_norm(errors, dim=1)
    bar = activation.bar(least, live)
    value = torch.maximum(_OVER_BAR * bar, _OF_ERROR * norms)
    if frozen:
        along, fixed = (errors, W_dec) if "W_dec" in frozen else (encoder.x, W_enc)
        rows = (along @ fixed[latents].t()).argmax(0)
        taken = (rows[:, None] == rows).tril(-1).any(1)
        latents, rows = latents[~taken], rows[~taken]
    else:
        worth = value < 2 * norms
        if reads_target:
            worth &= torch.linalg.vecdot(errors, encoder.x) > norms.square() / 2
        weights = (norms.square() * worth).cpu()
        n = min(len(latents), int((weights > 0).sum()))
        if n == 0:
            return latents[:0]
        latents = latents[:n]
        rows = torch.multinomial(weights, n, generator=generator).to(goal.device)
    u, value, bar = encoder.x[rows], value[rows], bar[rows]
    write = W_dec[latents] if "W_dec" in frozen else errors[rows] / norms[rows, None]
    lowered = torch.linalg.vecdot(write, errors[rows])
    kept = (lowered > 0) & (value < 2 * lowered)
    if encoder_name in frozen:
        read = W_enc[latents]
    else:
        read = write if reads_target else torch.nn.functional.normalize(u, dim=1)
        along = torch.linalg.vecdot(read, u)
        kept &= along > lowered / 2
        if W_enc is not W_dec:  # a tied row has norm 1
            read = read * (value / along).clamp(min=spread)[:, None]
    latents, write, read, value, bar, u = (t[kept] for t in (latents, write, read, value, bar, u))
    bias = value - torch.linalg.vecdot(read, u)
    W_dec[latents], W_enc[latents] = write, read
    parameters["b_enc"][latents] = bias
    activation.revive(latents, bar, bias)
    return latents


def _errors(
    encoder: Encoder,
    goal: Float[Tensor, "batch d_out"],
    activation: Activation,
    W_dec: Float[Tensor, "n_latents d_out"],
) -> tuple[Float[Tensor, "batch d_out"], Float[Tensor, " batch"]]:
    """v − v̂, and the smallest active value of each vector, 0 where none is active; some rows at a time, since all
    latents may be active."""
    errors, least = torch.empty_like(goal), goal.new_zeros(len(goal))
    for rows in spans(len(goal), encoder.tuning.block[0]):
        entries = activation.select(encoder.rows(rows), training=False)
        assert entries is not None, "an inference selection is always sparse"
        values = activation.values(entries, encoder.bias)
        decoded = bag_sum(W_dec, entries.indices, entries.offsets, values, tuning=encoder.tuning)
        torch.sub(goal[rows], decoded, out=errors[rows])
        if len(values):
            smallest = torch.segment_reduce(values, "min", offsets=entries.offsets.long(), initial=torch.inf)
            least[rows] = torch.where(torch.isinf(smallest), 0.0, smallest)
    encoder.clear_cache()
    return errors, least
