"""Passes that start at a block give what whole passes give, bit for bit, and never start where they may not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.networks import Network, add, load_network
from tests import tiny


def tiny_gemma2() -> Any:
    """A Gemma 2 whose even layers see four tokens back and whose odd ones see all."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=tiny.VOCABULARY,
        max_position_embeddings=tiny.CONTEXT,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=32,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Gemma2ForCausalLM(config)


def tiny_gemma3() -> Any:
    """A Gemma 3, whose local and global layers have rotary embeddings of their own; the first is global."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=tiny.VOCABULARY,
        max_position_embeddings=tiny.CONTEXT,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=32,
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Gemma3ForCausalLM(config)


MAKERS: dict[str, Callable[[], Any]] = {
    "gpt2": tiny.tiny_gpt2,
    "neox": tiny.tiny_neox,
    "neox_sequential": lambda: tiny.tiny_neox(parallel=False),
    "llama": tiny.tiny_llama,
    "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
    "mamba": tiny.tiny_mamba,
    "bert": tiny.tiny_bert,
    "vit": tiny.tiny_vit,
}
each_family = pytest.mark.parametrize("family", MAKERS)
MASKED = [name for name in MAKERS if name not in ("mamba", "vit")]
TOKENS = torch.randint(1, tiny.VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


@cache
def network_of(family: str) -> Network:
    return load_network(MAKERS[family]())


def inputs_of(family: str) -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) if family == "vit" else TOKENS


def shift(network: Network, name: str) -> Callable[[Tensor], Tensor]:
    return add(torch.linspace(-1, 2, network.width(name)))


@contextmanager
def counted(network: Network) -> Iterator[list[int]]:
    """Blocks whose own code runs: those whose first norm or projection is called."""
    ran: list[int] = []
    blocks = [
        network.module.get_submodule(network.site(f"blocks.{n}.resid_post").path) for n in range(network.n_blocks)
    ]
    handles = []
    for n, block in enumerate(blocks):
        leaf = next(part for part in block.modules() if not list(part.children()))
        handles.append(leaf.register_forward_hook(lambda *_, n=n: ran.append(n)))
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def check(network: Network, inputs: Any, names: list[str], **given: Any) -> None:
    """Every single edit, and a pair of them, from one prefix and whole."""
    prefix = network.prefix(inputs, names, **given)
    clean = network.run(inputs, **given).logits
    assert torch.equal(network.run(inputs, prefix=prefix, **given).logits, clean)
    for chosen in [*([name] for name in names), [names[0], names[-1]], names[-2:]]:
        edits = {name: shift(network, name) for name in chosen}
        whole = network.run(inputs, edits=edits, reads=chosen, **given)
        got = network.run(inputs, edits=edits, reads=chosen, prefix=prefix, **given)
        assert torch.equal(got.logits, whole.logits), chosen
        assert not torch.equal(got.logits, clean), chosen
        for site, value in whole.reads.items():
            assert torch.equal(got.reads[site], value), site


@each_family
def test_an_edit_at_any_named_site_gives_the_whole_passs_logits_bit_for_bit(family: str) -> None:
    network = network_of(family)
    sites = {network.site(name): name for name in network.site_names() if ".attn.head." not in name}
    check(network, inputs_of(family), list(sites.values()))


@pytest.mark.parametrize("family", MASKED)
def test_padding_masks_and_positions_are_those_of_the_run(family: str) -> None:
    network = network_of(family)
    names = [f"blocks.{n}.{place}" for n in range(network.n_blocks) for place in ("resid_pre", "mlp_out", "resid_post")]
    padding = torch.ones_like(TOKENS)
    padding[0, :3] = 0
    positions = (padding.cumsum(1) - 1).clamp_min(0)
    check(network, TOKENS, names, attention_mask=padding, position_ids=positions)
    masked = network.run(TOKENS, attention_mask=padding, position_ids=positions).logits
    assert not torch.allclose(masked[0], network.logits(TOKENS)[0], atol=1e-3)


@pytest.mark.parametrize("family", [name for name in MASKED if name not in ("gemma2", "gemma3")])
def test_masks_of_queries_and_keys_are_those_of_the_run(family: str) -> None:
    network = network_of(family)
    names = ["blocks.0.resid_post", "blocks.1.attn_out", "blocks.1.resid_post"]
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    seen[5:, 2:5] = False  # two branches after three shared tokens
    mask = torch.zeros(2, 1, 9, 9).masked_fill(~seen, torch.finfo(torch.float32).min)
    positions = torch.tensor([[0, 1, 2, 3, 4, 2, 3, 4, 5]])
    check(network, TOKENS, names, attention_mask=mask, position_ids=positions)


@each_family
def test_the_blocks_below_an_edit_do_not_run(family: str) -> None:
    network, inputs = network_of(family), inputs_of(family)
    last = network.n_blocks - 1
    after, within = (
        f"blocks.{last}.resid_post",
        f"blocks.{last}.mixer_in" if family == "mamba" else f"blocks.{last}.mlp_in",
    )
    with counted(network) as ran:
        prefix = network.prefix(inputs, [after, within])
    assert set(ran) == {*range(network.n_blocks)}
    with counted(network) as ran:
        network.prefix(inputs, [within])
    assert set(ran) == {*range(last)}
    for edited, expected in (([after], set()), ([within], {last}), ([after, within], {last}), (["embed"], None)):
        with counted(network) as ran:
            network.run(inputs, edits=dict.fromkeys(edited, torch.clone), prefix=prefix)
        assert set(ran) == ({*range(network.n_blocks)} if expected is None else expected)
    with counted(network) as ran:  # what is read has to run, too
        network.run(inputs, edits={after: torch.clone}, reads=["blocks.0.resid_pre"], prefix=prefix)
    assert set(ran) == {*range(network.n_blocks)}


def test_only_the_logits_wanted_are_the_whole_passs() -> None:
    network = network_of("llama")
    wanted = torch.rand(TOKENS.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    edits = {"blocks.1.mlp_out": shift(network, "blocks.1.mlp_out")}
    prefix = network.prefix(TOKENS, [*edits])
    whole = network.run(TOKENS, edits=edits, logits_at=wanted).logits
    assert torch.equal(network.run(TOKENS, edits=edits, logits_at=wanted, prefix=prefix).logits, whole)


def test_a_prefix_outlives_edits_in_place_and_leaves_no_trace_in_the_network() -> None:
    network = load_network(tiny.tiny_gpt2())
    site = network.site("transformer.h.1.ln_1.stream")  # written in place, where the skip connection reads too
    prefix = network.prefix(TOKENS, [site])
    kept = prefix.outputs[1].clone()
    edits = {site: lambda x: x.mul_(3)}
    whole = network.run(TOKENS, edits=edits).logits
    for _ in range(2):
        assert torch.equal(network.run(TOKENS, edits=edits, prefix=prefix).logits, whole)
    assert torch.equal(prefix.outputs[1], kept)
    with pytest.raises(ZeroDivisionError):
        network.run(TOKENS, edits={site: lambda x: x / (1 // 0)}, prefix=prefix)
    assert not any("forward" in vars(part) for part in network.module.modules())


def test_hooks_and_wrapped_forwards_of_the_networks_owner_stay() -> None:
    network = load_network(tiny.tiny_gpt2())
    block = network.module.transformer.h[0]
    block.register_forward_hook(lambda _m, _a, output: output * 1.5)
    own = block.forward
    block.forward = lambda *args, **kwargs: own(*args, **kwargs) + 0.25
    wrapped = block.forward
    check(network, TOKENS, ["blocks.0.resid_post", "blocks.1.resid_mid"])
    assert block.forward is wrapped


def test_a_prefix_of_windows_serves_their_copies() -> None:
    network = network_of("gpt2")
    prefix = network.prefix(TOKENS[:1], ["blocks.1.mlp_in"]).mapped(lambda x: x.expand(3, -1, -1))
    copies = TOKENS[:1].expand(3, -1)
    edits = {"blocks.1.mlp_in": lambda x: x + torch.arange(3)[:, None, None]}
    whole = network.run(copies, edits=edits).logits
    assert torch.allclose(network.run(copies, edits=edits, prefix=prefix).logits, whole, atol=1e-5)


def test_where_no_pass_can_start_inside_the_prefix_is_empty_and_the_pass_whole() -> None:
    network = network_of("gpt2")
    for name in ("embed", "transformer.drop", "blocks.0.resid_pre", "blocks.0.mlp_out"):
        assert not network.prefix(TOKENS, [name, "embed"]).outputs
    unknown = load_network(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    prefix = unknown.prefix(x, ["1"])
    assert not prefix.outputs
    assert torch.equal(unknown.run(x, edits={"1": torch.clone}, prefix=prefix).logits, unknown.logits(x))
    own_run = load_network(tiny.tiny_gpt2(), run=lambda module, inputs: module(inputs, use_cache=False))
    assert not own_run.prefix(TOKENS, ["blocks.1.resid_post"]).outputs


def test_a_prefix_of_something_else_is_refused() -> None:
    network = network_of("gpt2")
    edits = {"blocks.1.resid_post": torch.clone}
    prefix = network.prefix(TOKENS, [*edits])
    with pytest.raises(InputError, match="another network"):
        network_of("llama").run(TOKENS, edits=edits, prefix=prefix)
    with pytest.raises(InputError, match=r"\(2, 9, 16\).*\(2, 5, 16\).*same inputs"):
        network.run(TOKENS[:, :5], edits=edits, prefix=prefix)
    assert torch.equal(network.run(TOKENS, prefix=prefix).logits, network.logits(TOKENS))
