"""The known architectures: where each keeps the places that carry a short name.

A family is one `Family` and one line in `FAMILIES`. Its templates are `module path.port`, relative to the base model
(the part below the head), with `{n}` for the block. A name a family lacks is an error, never the nearest thing.

What the short names mean, in every family:

- `embed`: token (or patch) embeddings before positions are added.
- `blocks.N.resid_pre`, `blocks.N.resid_post`: what block N reads and what block N + 1 reads.
- `blocks.N.resid_mid`: what the MLP's residual connection adds to.
- `blocks.N.attn_in`, `blocks.N.mlp_in`: what the attention and the MLP read, after their norm.
- `blocks.N.attn_out`, `blocks.N.mlp_out`: what they add to the residual stream.
- `blocks.N.attn.z`, `blocks.N.attn.head.H`: what goes into the output projection: every head, and head H's slice.
- `blocks.N.mlp_post`: the hidden neurons after the non-linearity (and after the gate, where there is one).
- `final_norm` (also `ln_final`): the vectors the unembedding reads, after the norm's gain and bias.

TransformerLens's hook names stand for the same places in the network as it is loaded here: weights are not folded or
centred, so values equal `HookedTransformer.from_pretrained_no_processing`'s, except that `attn.hook_z` keeps the heads
side by side on the last axis and that a norm's `hook_normalized` includes an RMSNorm's gain. In post-norm blocks (BERT)
TransformerLens's `hook_resid_mid` and `hook_resid_post` are the sums before the norm, and resolve to those.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

TRANSFORMER_LENS = {
    "hook_embed": "embed",
    "blocks.{n}.hook_resid_pre": "blocks.{n}.resid_pre",
    "blocks.{n}.hook_resid_mid": "blocks.{n}.resid_mid",
    "blocks.{n}.hook_resid_post": "blocks.{n}.resid_post",
    "blocks.{n}.ln1.hook_normalized": "blocks.{n}.attn_in",
    "blocks.{n}.ln2.hook_normalized": "blocks.{n}.mlp_in",
    "blocks.{n}.hook_attn_out": "blocks.{n}.attn_out",
    "blocks.{n}.hook_mlp_out": "blocks.{n}.mlp_out",
    "blocks.{n}.attn.hook_z": "blocks.{n}.attn.z",
    "blocks.{n}.mlp.hook_post": "blocks.{n}.mlp_post",
    "ln_final.hook_normalized": "final_norm",
}
"""TransformerLens's name to the short name of the same place."""


def _nothing_absent(_config: Any) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its named places.

    Attributes:
        name: of the family.
        model_types: values of a Hugging Face config's `model_type` that have this layout.
        blocks: path of the list of blocks.
        sites: short name to `path.port`.
        transformer_lens: hook names whose place differs from that of the short name in `TRANSFORMER_LENS`.
        readout: module paths, from the whole model and with `{base}` for the base model, that turn the last residual
            stream into logits; empty where there is no such chain.
        embeddings: parameters that embed the input and are not in an `nn.Embedding`.
        activated: linear maps with the non-linearity that alone reads what they return, as module paths with `{n}`;
            those a network lacks are passed over.
        mask_4d: whether the attention takes an additive `[batch, 1, query, key]` mask as it is.
        attention_norm: path of the norm that a block's attention reads through, with `{n}`.
        head_maps: from a block's attention and its number of heads, the heads' maps from the residual stream to value
            `[head, d_model, d_head]` and from value to residual stream `[head, d_head, d_model]`; None where they are
            not known.
        reads_text: whether it may be the language model inside a network that reads pictures too.
        absent: from the config, short names this network lacks though the family has them, with the reason.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    sites: dict[str, str]
    transformer_lens: dict[str, str] = field(default_factory=dict[str, str])
    readout: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    activated: tuple[tuple[str, str], ...] = ()
    mask_4d: bool = False
    attention_norm: str = ""
    head_maps: Callable[[Any, int], tuple[Tensor, Tensor]] | None = None
    reads_text: bool = True
    absent: Callable[[Any], dict[str, str]] = _nothing_absent

    @property
    def attention(self) -> str | None:
        """Path of a block's attention, with `{n}`: the module that `attn_in` goes into; None where there is none."""
        return self.sites.get("blocks.{n}.attn_in", "").removesuffix(".in") or None


def _gpt2_maps(attention: Any, n_heads: int) -> tuple[Tensor, Tensor]:
    d = attention.c_proj.weight.shape[1]
    value = attention.c_attn.weight[:, 2 * d :]  # Conv1D keeps [in, out]
    return value.unflatten(1, (n_heads, -1)).transpose(0, 1), attention.c_proj.weight.unflatten(0, (n_heads, -1))


def _neox_maps(attention: Any, n_heads: int) -> tuple[Tensor, Tensor]:
    value = attention.query_key_value.weight.unflatten(0, (n_heads, 3, -1))[:, 2]
    return value.mT, attention.dense.weight.unflatten(1, (n_heads, -1)).permute(1, 2, 0)


def llama_maps(attention: Any, n_heads: int) -> tuple[Tensor, Tensor]:
    """`Family.head_maps` of any attention with linear maps `v_proj` and `o_proj`."""
    output = attention.o_proj.weight.unflatten(1, (n_heads, -1)).permute(1, 2, 0)
    value = attention.v_proj.weight.unflatten(0, (-1, output.shape[1])).mT
    return value.repeat_interleave(n_heads // len(value), dim=0), output  # grouped queries share their values


GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    blocks="h",
    sites={
        "embed": "wte.out",
        "blocks.{n}.resid_pre": "h.{n}.in",
        "blocks.{n}.attn_in": "h.{n}.attn.in",
        "blocks.{n}.attn.z": "h.{n}.attn.c_proj.in",
        "blocks.{n}.attn_out": "h.{n}.attn.out",
        "blocks.{n}.resid_mid": "h.{n}.ln_2.stream",
        "blocks.{n}.mlp_in": "h.{n}.mlp.in",
        "blocks.{n}.mlp_post": "h.{n}.mlp.c_proj.in",
        "blocks.{n}.mlp_out": "h.{n}.mlp.out",
        "blocks.{n}.resid_post": "h.{n}.out",
        "final_norm": "ln_f.out",
    },
    readout=("{base}ln_f", "lm_head"),
    activated=(("h.{n}.mlp.c_fc", "h.{n}.mlp.act"),),
    mask_4d=True,
    attention_norm="h.{n}.ln_1",
    head_maps=_gpt2_maps,
)


def _neox_absent(config: Any) -> dict[str, str]:
    if not config.use_parallel_residual:
        return {}
    reason = "attention and MLP are parallel (use_parallel_residual), so there is no residual stream between them"
    return {"blocks.{n}.resid_mid": reason}


NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    blocks="layers",
    sites={
        "embed": "embed_in.out",
        "blocks.{n}.resid_pre": "layers.{n}.in",
        "blocks.{n}.attn_in": "layers.{n}.attention.in",
        "blocks.{n}.attn.z": "layers.{n}.attention.dense.in",
        "blocks.{n}.attn_out": "layers.{n}.attention.out",
        "blocks.{n}.resid_mid": "layers.{n}.post_attention_layernorm.stream",
        "blocks.{n}.mlp_in": "layers.{n}.mlp.in",
        "blocks.{n}.mlp_post": "layers.{n}.mlp.dense_4h_to_h.in",
        "blocks.{n}.mlp_out": "layers.{n}.mlp.out",
        "blocks.{n}.resid_post": "layers.{n}.out",
        "final_norm": "final_layer_norm.out",
    },
    readout=("{base}final_layer_norm", "lm_head"),
    activated=(("layers.{n}.mlp.dense_h_to_4h", "layers.{n}.mlp.act"),),
    mask_4d=True,
    attention_norm="layers.{n}.input_layernorm",
    head_maps=_neox_maps,
    absent=_neox_absent,
)

LLAMA = Family(
    name="llama",
    model_types=(
        *("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "olmo", "smollm3"),
        *("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"),
    ),
    blocks="layers",
    sites={
        "embed": "embed_tokens.out",
        "blocks.{n}.resid_pre": "layers.{n}.in",
        "blocks.{n}.attn_in": "layers.{n}.self_attn.in",
        "blocks.{n}.attn.z": "layers.{n}.self_attn.o_proj.in",
        "blocks.{n}.attn_out": "layers.{n}.self_attn.out",
        "blocks.{n}.resid_mid": "layers.{n}.post_attention_layernorm.stream",
        "blocks.{n}.mlp_in": "layers.{n}.mlp.in",
        "blocks.{n}.mlp_post": "layers.{n}.mlp.down_proj.in",
        "blocks.{n}.mlp_out": "layers.{n}.mlp.out",
        "blocks.{n}.resid_post": "layers.{n}.out",
        "final_norm": "norm.out",
    },
    readout=("{base}norm", "lm_head"),
    activated=(("layers.{n}.mlp.gate_proj", "layers.{n}.mlp.act_fn"),),
    mask_4d=True,
    attention_norm="layers.{n}.input_layernorm",
    head_maps=llama_maps,
)

# Norms before and after each part: what is added to the stream is what the second norm returns.
GEMMA2 = replace(
    LLAMA,
    name="gemma2",
    model_types=("gemma2", "gemma3_text"),
    sites={
        **LLAMA.sites,
        "blocks.{n}.attn_out": "layers.{n}.post_attention_layernorm.out",
        "blocks.{n}.resid_mid": "layers.{n}.pre_feedforward_layernorm.stream",
        "blocks.{n}.mlp_out": "layers.{n}.post_feedforward_layernorm.out",
    },
)

_NO_ATTENTION = "a state-space block has no attention; its one part is `mixer_out`"
_NO_MLP = "a state-space block has no MLP; its one part is `mixer_out`"

MAMBA = Family(
    name="mamba",
    model_types=("mamba",),
    blocks="layers",
    sites={
        "embed": "embeddings.out",
        "blocks.{n}.resid_pre": "layers.{n}.in",
        "blocks.{n}.mixer_in": "layers.{n}.mixer.in",
        "blocks.{n}.mixer_out": "layers.{n}.mixer.out",
        "blocks.{n}.resid_post": "layers.{n}.out",
        "final_norm": "norm_f.out",
    },
    readout=("{base}norm_f", "lm_head"),
    absent=lambda _config: {
        **{f"blocks.{{n}}.{name}": _NO_ATTENTION for name in ("attn_in", "attn.z", "attn_out", "resid_mid")},
        **{f"blocks.{{n}}.{name}": _NO_MLP for name in ("mlp_in", "mlp_post", "mlp_out")},
    },
)

BERT = Family(
    name="bert",
    model_types=("bert",),
    blocks="encoder.layer",
    sites={
        "embed": "embeddings.word_embeddings.out",
        "blocks.{n}.resid_pre": "encoder.layer.{n}.in",
        "blocks.{n}.attn_in": "encoder.layer.{n}.attention.in",
        "blocks.{n}.attn.z": "encoder.layer.{n}.attention.output.dense.in",
        "blocks.{n}.attn_out": "encoder.layer.{n}.attention.output.dense.out",
        "blocks.{n}.resid_mid": "encoder.layer.{n}.attention.out",
        "blocks.{n}.mlp_in": "encoder.layer.{n}.intermediate.in",
        "blocks.{n}.mlp_post": "encoder.layer.{n}.output.dense.in",
        "blocks.{n}.mlp_out": "encoder.layer.{n}.output.dense.out",
        "blocks.{n}.resid_post": "encoder.layer.{n}.out",
    },
    transformer_lens={
        "blocks.{n}.hook_resid_mid": "encoder.layer.{n}.attention.output.LayerNorm.in",
        "blocks.{n}.hook_resid_post": "encoder.layer.{n}.output.LayerNorm.in",
        "blocks.{n}.hook_normalized_resid_post": "encoder.layer.{n}.out",
        "blocks.{n}.ln1.hook_normalized": "encoder.layer.{n}.attention.out",
        "blocks.{n}.ln2.hook_normalized": "encoder.layer.{n}.out",
    },
    readout=("cls.predictions",),
    activated=(("encoder.layer.{n}.intermediate.dense", "encoder.layer.{n}.intermediate.intermediate_act_fn"),),
    mask_4d=True,
    absent=lambda _config: {"final_norm": "a post-norm network ends in its last block's norm; use its resid_post"},
)

VIT = Family(
    name="vit",
    model_types=("vit",),
    blocks="layers",
    sites={
        "embed": "embeddings.patch_embeddings.out",
        "blocks.{n}.resid_pre": "layers.{n}.in",
        "blocks.{n}.attn_in": "layers.{n}.attention.in",
        "blocks.{n}.attn.z": "layers.{n}.attention.o_proj.in",
        "blocks.{n}.attn_out": "layers.{n}.attention.out",
        "blocks.{n}.resid_mid": "layers.{n}.layernorm_after.stream",
        "blocks.{n}.mlp_in": "layers.{n}.mlp.in",
        "blocks.{n}.mlp_post": "layers.{n}.mlp.fc2.in",
        "blocks.{n}.mlp_out": "layers.{n}.mlp.out",
        "blocks.{n}.resid_post": "layers.{n}.out",
        "final_norm": "layernorm.out",
    },
    readout=("{base}layernorm", "classifier"),
    activated=(("layers.{n}.mlp.fc1", "layers.{n}.mlp.activation_fn"),),
    reads_text=False,
    embeddings=(
        "embeddings.cls_token",
        "embeddings.mask_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight",
    ),
)

FAMILIES: tuple[Family, ...] = (GPT2, NEOX, LLAMA, GEMMA2, MAMBA, BERT, VIT)


def family_of(model_type: str | None) -> Family | None:
    """The family with this `model_type`; None for an architecture without short names."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def family_named(name: str) -> Family | None:
    """The family of this name; None for `unknown`."""
    return next((family for family in FAMILIES if family.name == name), None)


def find_family(module: nn.Module) -> tuple[str, Family | None]:
    """The path of a Hugging Face model's base model, with a final dot or empty, and the family it belongs to.

    The base model is the part below the head; in a network that reads pictures too, its language model. The family is
    None where none is known, or where the modules are not those of the family the config names.
    """
    prefix = getattr(module, "base_model_prefix", "")
    own = f"{prefix}." if prefix and isinstance(getattr(module, prefix, None), nn.Module) else ""
    family = _fitting(module, own)
    if family is not None:
        return own, family
    inside = {
        f"{name}.": family for name, _ in module.named_modules() if name and (family := _fitting(module, f"{name}."))
    }
    # The innermost path of each: a model with a head and the model in it have one config.
    texts = {base: family for base, family in inside.items() if family.reads_text}
    return next(iter(texts.items())) if len(texts) == 1 else (own, None)


def _fitting(module: nn.Module, base: str) -> Family | None:
    """The family of the base model at a path, by its config and by the modules it has."""
    part = module.get_submodule(base.removesuffix("."))
    config = getattr(part, "config", None)
    family = family_of(getattr(config, "model_type", None))
    if family is None:
        return None
    paths = {name for name, _ in part.named_modules()}
    blocks = part.get_submodule(family.blocks) if family.blocks in paths else None
    if not isinstance(blocks, nn.ModuleList):
        return None
    absent = family.absent(config)
    named = {name: place for name, place in family.sites.items() if name not in absent}
    hooks = {name: place for name, place in family.transformer_lens.items() if name not in absent}
    places = [place.rsplit(".", 1)[0] for place in (*named.values(), *hooks.values())]
    whole = all(place.format(n=n) in paths for place in places for n in range(len(blocks)))
    return family if whole else None
