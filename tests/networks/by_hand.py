"""Forward passes of the tiny networks written out from their modules, without hooks: what the sites must equal.

Each takes `at(name, value)`, called with every named place's value; what it returns goes on in its place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

At = Callable[[str, Tensor], Tensor]


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Softmax attention of `[batch, head, position, d]`; the heads side by side on the last axis."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def gpt2(model: Any, tokens: Tensor, at: At) -> Tensor:
    body = model.transformer
    x = at("embed", body.wte(tokens)) + body.wpe(torch.arange(tokens.shape[1]))
    for n, block in enumerate(body.h):
        x = at(f"blocks.{n}.resid_pre", x)
        a = at(f"blocks.{n}.attn_in", block.ln_1(x))
        q, k, v = (_heads(part, 4) for part in block.attn.c_attn(a).chunk(3, -1))
        z = at(f"blocks.{n}.attn.z", _attend(q, k, v, causal=True))
        x = at(f"blocks.{n}.resid_mid", x + at(f"blocks.{n}.attn_out", block.attn.c_proj(z)))
        m = at(f"blocks.{n}.mlp_in", block.ln_2(x))
        hidden = at(f"blocks.{n}.mlp_post", block.mlp.act(block.mlp.c_fc(m)))
        x = at(f"blocks.{n}.resid_post", x + at(f"blocks.{n}.mlp_out", block.mlp.c_proj(hidden)))
    return at("final_norm", body.ln_f(x)) @ model.lm_head.weight.T


def neox(model: Any, tokens: Tensor, at: At) -> Tensor:
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    body = model.gpt_neox
    x = at("embed", body.embed_in(tokens))
    cos, sin = body.rotary_emb(x, torch.arange(tokens.shape[1])[None])
    for n, block in enumerate(body.layers):
        x = at(f"blocks.{n}.resid_pre", x)
        a = at(f"blocks.{n}.attn_in", block.input_layernorm(x))
        q, k, v = _heads(block.attention.query_key_value(a), 4).chunk(3, -1)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        z = at(f"blocks.{n}.attn.z", _attend(q, k, v, causal=True))
        added = at(f"blocks.{n}.attn_out", block.attention.dense(z))
        read = x
        if not block.use_parallel_residual:
            read = x = at(f"blocks.{n}.resid_mid", x + added)
        m = at(f"blocks.{n}.mlp_in", block.post_attention_layernorm(read))
        hidden = at(f"blocks.{n}.mlp_post", block.mlp.act(block.mlp.dense_h_to_4h(m)))
        out = at(f"blocks.{n}.mlp_out", block.mlp.dense_4h_to_h(hidden))
        x = at(f"blocks.{n}.resid_post", x + out + (added if block.use_parallel_residual else 0))
    return at("final_norm", body.final_layer_norm(x)) @ model.lm_head.weight.T


def llama(model: Any, tokens: Tensor, at: At) -> Tensor:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    body = model.model
    x = at("embed", body.embed_tokens(tokens))
    cos, sin = body.rotary_emb(x, torch.arange(tokens.shape[1])[None])
    for n, block in enumerate(body.layers):
        x = at(f"blocks.{n}.resid_pre", x)
        a = at(f"blocks.{n}.attn_in", block.input_layernorm(x))
        attention, mlp = block.self_attn, block.mlp
        q, k, v = _heads(attention.q_proj(a), 4), _heads(attention.k_proj(a), 2), _heads(attention.v_proj(a), 2)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        z = at(f"blocks.{n}.attn.z", _attend(q, k, v, causal=True))
        x = at(f"blocks.{n}.resid_mid", x + at(f"blocks.{n}.attn_out", attention.o_proj(z)))
        m = at(f"blocks.{n}.mlp_in", block.post_attention_layernorm(x))
        hidden = at(f"blocks.{n}.mlp_post", mlp.act_fn(mlp.gate_proj(m)) * mlp.up_proj(m))
        x = at(f"blocks.{n}.resid_post", x + at(f"blocks.{n}.mlp_out", mlp.down_proj(hidden)))
    return at("final_norm", body.norm(x)) @ model.lm_head.weight.T


def mamba(model: Any, tokens: Tensor, at: At) -> Tensor:
    body = model.backbone
    x = at("embed", body.embeddings(tokens))
    for n, block in enumerate(body.layers):
        x = at(f"blocks.{n}.resid_pre", x)
        read = at(f"blocks.{n}.mixer_in", block.norm(x))
        x = at(f"blocks.{n}.resid_post", x + at(f"blocks.{n}.mixer_out", block.mixer(read)))
    return at("final_norm", body.norm_f(x)) @ model.lm_head.weight.T


def bert(model: Any, tokens: Tensor, at: At) -> Tensor:
    body = model.bert
    words = at("embed", body.embeddings.word_embeddings(tokens))
    places = body.embeddings.position_embeddings(torch.arange(tokens.shape[1]))
    x = body.embeddings.LayerNorm(words + places + body.embeddings.token_type_embeddings.weight[0])
    for n, block in enumerate(body.encoder.layer):
        x = at(f"blocks.{n}.resid_pre", x)
        a = at(f"blocks.{n}.attn_in", x)
        inner, outer = block.attention.self, block.attention.output
        q, k, v = (_heads(part(a), 4) for part in (inner.query, inner.key, inner.value))
        z = at(f"blocks.{n}.attn.z", _attend(q, k, v, causal=False))
        # The module that is handed `attn_in` keeps it for its own residual connection, too.
        total = at(f"blocks.{n}.hook_resid_mid", a + at(f"blocks.{n}.attn_out", outer.dense(z)))
        x = at(f"blocks.{n}.resid_mid", outer.LayerNorm(total))
        hidden = at(f"blocks.{n}.mlp_post", block.intermediate(at(f"blocks.{n}.mlp_in", x)))
        total = at(f"blocks.{n}.hook_resid_post", x + at(f"blocks.{n}.mlp_out", block.output.dense(hidden)))
        x = at(f"blocks.{n}.resid_post", block.output.LayerNorm(total))
    return model.cls(x)


def vit(model: Any, pixels: Tensor, at: At) -> Tensor:
    body = model.vit
    patches = at("embed", body.embeddings.patch_embeddings(pixels))
    x = torch.cat([body.embeddings.cls_token.expand(len(pixels), -1, -1), patches], 1)
    x = x + body.embeddings.position_embeddings
    for n, block in enumerate(body.layers):
        x = at(f"blocks.{n}.resid_pre", x)
        a = at(f"blocks.{n}.attn_in", block.layernorm_before(x))
        attention, mlp = block.attention, block.mlp
        q, k, v = (_heads(part(a), 4) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        z = at(f"blocks.{n}.attn.z", _attend(q, k, v, causal=False))
        x = at(f"blocks.{n}.resid_mid", x + at(f"blocks.{n}.attn_out", attention.o_proj(z)))
        m = at(f"blocks.{n}.mlp_in", block.layernorm_after(x))
        hidden = at(f"blocks.{n}.mlp_post", mlp.activation_fn(mlp.fc1(m)))
        x = at(f"blocks.{n}.resid_post", x + at(f"blocks.{n}.mlp_out", mlp.fc2(hidden)))
    return model.classifier(at("final_norm", body.layernorm(x))[:, 0])
