"""What a head copies: its value and output maps, and the OV circuit between tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.heads.patterns import Pattern
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.networks.families import FAMILIES, family_named, llama_maps


@dataclass(frozen=True)
class Maps:
    """The linear maps of one layer's heads.

    Attributes:
        W_V: residual stream to value, `[head, d_model, d_head]`.
        W_O: value to residual stream, `[head, d_head, d_model]`.
        gain: gain of the norm that the attention reads through, `[d_model]`; ones where there is no norm.
    """

    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    gain: Float[Tensor, " d_model"]


@shielded
@torch.no_grad()
def head_maps(network: Network) -> list[Maps]:
    """The value and output maps of every layer.

    Raises:
        InputError: the network keeps them in a way that is not known here.
    """
    module: Any = network.module
    family = family_named(network.family)
    if family is not None and family.head_maps is not None and family.attention is not None:
        base, n_heads = module.base_model, module.config.num_attention_heads
        maps: list[Maps] = []
        for n in range(network.n_blocks):
            W_V, W_O = family.head_maps(base.get_submodule(family.attention.format(n=n)), n_heads)
            maps.append(
                Maps(W_V.float(), W_O.float(), _gain(base.get_submodule(family.attention_norm.format(n=n)), W_O))
            )
        return maps
    parents = [name.rpartition(".")[0] for name, part in module.named_modules() if isinstance(part, Pattern)]
    attentions: list[Any] = [module.get_submodule(parent) for parent in parents]
    known = ", ".join(family.name for family in FAMILIES if family.head_maps is not None)
    if not attentions or any(not hasattr(a, "v_proj") or not hasattr(a, "o_proj") for a in attentions):
        raise InputError(
            "the value and output maps of this network's heads are not known",
            where=type(module).__name__,
            fix=f"known: {known}, and attentions with v_proj, o_proj, n_heads and a heads.Pattern()",
        )
    cut = [llama_maps(attention, attention.n_heads) for attention in attentions]
    return [Maps(W_V.float(), W_O.float(), W_O.new_ones(W_O.shape[2])) for W_V, W_O in cut]


@shielded
@torch.no_grad()
def copying_scores(network: Network) -> Float[Tensor, "layer head"]:
    """Σλ / Σ|λ| over the eigenvalues of each head's full OV circuit W_E W_V W_O W_U; 1 for a head that only copies.

    The gains of the norm before the attention and of the last norm are folded in; their division by a scale changes
    no sign and is left out. Of the vocab × vocab matrix only d_head eigenvalues are not 0: those of W_V' W_O' with
    the token maps folded in.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "Summarizing OV/QK matrices".

    Raises:
        InputError: the network has no token embeddings or no unembedding.
    """
    embed: Any = getattr(network.module, "get_input_embeddings", lambda: None)()
    unembed = network.unembedding()
    if embed is None or unembed is None:
        raise InputError("copying needs token embeddings and an unembedding", where=type(network.module).__name__)
    W_E, last = embed.weight.cpu().double(), network.final_norm
    W_U = unembed.cpu().double() if last is None else unembed.cpu().double() * _gain(last, unembed).cpu().double()
    # tr-cyclic: the eigenvalues of (W_E W_V)(W_O W_U) are those of W_O (W_U W_E) W_V, d_head by d_head.
    through = W_U.T @ W_E
    scores: list[Tensor] = []
    for maps in head_maps(network):
        small = maps.W_O.cpu().double() @ through @ (maps.gain.cpu().double()[:, None] * maps.W_V.cpu().double())
        eigenvalues = torch.linalg.eigvals(small)
        scores.append(eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1))
    return torch.stack(scores).float()


def _gain(norm: nn.Module, like: Tensor) -> Tensor:
    weight: Tensor | None = getattr(norm, "weight", None)
    if weight is None:
        return like.new_ones(like.shape[-1])
    # Gemma's RMSNorm multiplies by 1 + weight.
    return (1 + weight if type(norm).__name__.startswith("Gemma") else weight).to(like.dtype)
