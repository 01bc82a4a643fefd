"""Every named site of every family, read and edited, against the forward pass written out by hand."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.networks import Network, add, load_network
from polyseme.networks.families import TRANSFORMER_LENS
from tests import tiny
from tests.networks import by_hand

Case = tuple[Callable[[], Any], Callable[..., Tensor]]

CASES: dict[str, Case] = {
    "gpt2": (tiny.tiny_gpt2, by_hand.gpt2),
    "neox": (tiny.tiny_neox, by_hand.neox),
    "neox_sequential": (lambda: tiny.tiny_neox(parallel=False), by_hand.neox),
    "llama": (tiny.tiny_llama, by_hand.llama),
    "mamba": (tiny.tiny_mamba, by_hand.mamba),
    "bert": (tiny.tiny_bert, by_hand.bert),
    "vit": (tiny.tiny_vit, by_hand.vit),
}
each_family = pytest.mark.parametrize("family", CASES)


@cache
def network_of(family: str) -> Network:
    return load_network(CASES[family][0]())


def inputs_of(family: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if family == "vit":
        return torch.randn(2, 3, 16, 16, generator=generator)
    return torch.randint(1, tiny.VOCABULARY, (2, 7), generator=generator)


def walk(family: str, at: by_hand.At) -> Tensor:
    with torch.no_grad():
        return CASES[family][1](network_of(family).module, inputs_of(family), at)


def places(family: str) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    seen["logits"] = walk(family, keep)
    return seen


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@each_family
def test_reads_equal_the_values_by_hand(family: str) -> None:
    network, expected = network_of(family), places(family)
    logits = expected.pop("logits")
    read = network.read(inputs_of(family), list(expected))
    for name, value in expected.items():
        assert close(read[network.site(name)], value), name
    assert close(network.logits(inputs_of(family)), logits)


@each_family
def test_every_named_site_is_checked_by_hand(family: str) -> None:
    network = network_of(family)
    named = {network.site(name) for name in network.site_names() if ".attn.head." not in name}
    assert {network.site(name) for name in places(family) if name != "logits"} == named


@each_family
def test_edits_equal_the_edited_pass_by_hand(family: str) -> None:
    network, inputs = network_of(family), inputs_of(family)
    clean = network.logits(inputs)
    for name in [name for name in places(family) if name != "logits"]:
        shift = torch.linspace(-1, 2, network.width(name))
        expected = walk(family, lambda place, value: value + shift if place == name else value)  # noqa: B023  used at once
        got = network.run(inputs, edits={name: add(shift)}).logits
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4), name
        assert not close(got, clean), name


@each_family
def test_identity_edits_everywhere_leave_the_logits_bit_for_bit(family: str) -> None:
    network, inputs = network_of(family), inputs_of(family)
    edits = {network.site(name): torch.clone for name in network.site_names()}
    assert torch.equal(network.run(inputs, edits=edits).logits, network.logits(inputs))


@each_family
def test_a_head_is_a_slice_of_what_the_output_projection_reads(family: str) -> None:
    if family == "mamba":
        pytest.skip("no heads")
    network, inputs = network_of(family), inputs_of(family)
    z = places(family)["blocks.1.attn.z"]
    names = [f"blocks.1.attn.head.{head}" for head in range(4)]
    read = network.read(inputs, names)
    assert close(torch.cat([read[network.site(name)] for name in names], -1), z)
    assert network.width(names[0]) == z.shape[-1] // 4

    def zero_head_2(place: str, value: Tensor) -> Tensor:
        if place != "blocks.1.attn.z":
            return value
        return torch.cat([value[..., :8], torch.zeros_like(value[..., 8:12]), value[..., 12:]], -1)

    got = network.run(inputs, edits={names[2]: torch.zeros_like}).logits
    assert close(got, walk(family, zero_head_2))


@each_family
def test_hook_names_resolve(family: str) -> None:
    network = network_of(family)
    expected = places(family)
    for hook, short in TRANSFORMER_LENS.items():
        hook, short = hook.replace("{n}", "1"), short.replace("{n}", "1")
        if short in expected and hook not in expected and family != "bert":
            assert network.site(hook) == network.site(short)
    site = network.site("blocks.1.hook_resid_post")
    assert network.n_blocks == 2
    value = network.read(inputs_of(family), [site])[site]
    assert close(value, expected.get("blocks.1.hook_resid_post", expected["blocks.1.resid_post"]))


def test_hook_names_of_a_post_norm_block_are_before_the_norm() -> None:
    network = network_of("bert")
    assert network.site("blocks.0.hook_normalized_resid_post") == network.site("blocks.0.resid_post")
    assert network.site("blocks.0.ln1.hook_normalized") == network.site("blocks.0.resid_mid")
    assert network.site("blocks.0.hook_resid_post") != network.site("blocks.0.resid_post")


@each_family
def test_residual_reads_equal_output_hidden_states(family: str) -> None:
    network, inputs = network_of(family), inputs_of(family)
    with torch.no_grad():
        hidden = network.module(inputs, output_hidden_states=True).hidden_states
    names = ["blocks.0.resid_pre", "blocks.1.resid_pre"]
    if family == "mamba":
        names, hidden = ["blocks.0.resid_post", "blocks.1.resid_post"], hidden[:2]
    if family == "bert":
        names.append("blocks.1.resid_post")
    read = network.read(inputs, names)
    for name, state in zip(names, hidden, strict=False):
        assert torch.equal(read[network.site(name)], state), name


def test_a_site_an_architecture_lacks_is_an_error_with_the_reason() -> None:
    with pytest.raises(InputError, match="parallel"):
        network_of("neox").site("blocks.0.resid_mid")
    with pytest.raises(InputError, match="parallel"):
        network_of("neox").site("blocks.0.hook_resid_mid")
    with pytest.raises(InputError, match=r"state-space.*mixer_out"):
        network_of("mamba").site("blocks.1.mlp_out")
    with pytest.raises(InputError, match="post-norm"):
        network_of("bert").site("ln_final")
    assert network_of("neox_sequential").site("blocks.0.resid_mid").port == "stream"


LLAMA_LIKE = ("Mistral", "Qwen2", "Qwen3", "Gemma", "Phi3", "Olmo", "SmolLM3", "Gemma2", "Gemma3Text")


@pytest.mark.parametrize("kind", LLAMA_LIKE)
def test_llama_like_residual_streams_add_up(kind: str) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    name = "Gemma3ForCausalLM" if kind == "Gemma3Text" else f"{kind}ForCausalLM"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_network(getattr(transformers, name)(config))
    tokens = torch.arange(1, 9)[None]
    names = [f"blocks.0.{name}" for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]
    read = network.read(tokens, [*names, "final_norm", "blocks.0.attn.head.3", "blocks.0.mlp_post"])
    pre, attention, mid, mlp, post = (read[network.site(name)] for name in names)
    assert torch.equal(mid, pre + attention)
    assert torch.equal(post, mid + mlp)
    assert attention.abs().max() > 0
    assert mlp.abs().max() > 0
    assert read[network.site("blocks.0.attn.head.3")].shape == (1, 8, 4)
    assert read[network.site("blocks.0.mlp_post")].shape == (1, 8, 32)
    assert torch.allclose(network.unembed(post), network.logits(tokens), atol=1e-5)
