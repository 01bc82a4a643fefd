"""One pass: early stop, edits, module kinds, partial logits, 4-D masks, bad input."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks import EditFrom, Network, add, load_network, mean_ablate, replace, zero_ablate
from tests import tiny

TOKENS = torch.arange(1, 15).reshape(2, 7)
CAUSAL = {"gpt2": tiny.tiny_gpt2, "neox": tiny.tiny_neox, "llama": tiny.tiny_llama}
each_causal = pytest.mark.parametrize("kind", CAUSAL)


def calls(network: Network, path: str, do: Callable[[], Any]) -> int:
    """How often the module at `path` is called while `do` runs."""
    count = 0

    def hook(*_: Any) -> None:
        nonlocal count
        count += 1

    handle = network.module.get_submodule(path).register_forward_hook(hook)
    do()
    handle.remove()
    return count


# Reads


def test_a_read_stops_right_after_the_deepest_site() -> None:
    network = load_network(tiny.tiny_gpt2())
    sites = ["blocks.0.resid_post", "blocks.0.mlp_out", "blocks.1.resid_mid"]
    for path, n in {"transformer.h.0": 1, "transformer.h.1.attn": 1, "transformer.h.1.mlp": 0, "lm_head": 0}.items():
        assert calls(network, path, lambda: network.read(TOKENS, sites)) == n, path
        assert calls(network, path, lambda: network.read(TOKENS, sites[::-1])) == n, path


def test_stopping_early_changes_no_value_and_leaves_no_hook() -> None:
    network = load_network(tiny.tiny_llama())
    names = network.site_names()
    whole = network.run(TOKENS, reads=names).reads
    for name in names:
        site = network.site(name)
        assert torch.equal(network.read(TOKENS, [name])[site], whole[site])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.module.modules())


def test_reads_are_ordinary_tensors_of_their_own() -> None:
    network = load_network(tiny.tiny_gpt2())
    sites = [network.site("blocks.0.resid_post"), network.site("blocks.1.resid_pre")]
    read = network.read(TOKENS, sites)
    assert torch.equal(read[sites[0]], read[sites[1]])
    read[sites[0]].zero_()
    assert read[sites[1]].abs().max() > 0
    weight = torch.ones(16, requires_grad=True)
    (read[sites[1]] @ weight).sum().backward()
    assert weight.grad is not None


def test_hooks_are_removed_after_an_error() -> None:
    network = load_network(tiny.tiny_gpt2())
    with pytest.raises(InputError, match="returned shape"):
        network.run(TOKENS, edits={"blocks.0.resid_post": lambda x: x[..., :3]})
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.module.modules())


def test_a_read_at_an_edited_site_is_the_value_before_the_edit() -> None:
    network = load_network(tiny.tiny_gpt2())
    for name in ("blocks.0.resid_mid", "blocks.0.resid_post", "blocks.0.attn.head.1"):
        site = network.site(name)
        clean = network.read(TOKENS, [site])[site]
        edited = network.run(TOKENS, edits={site: zero_ablate()}, reads=[site, "blocks.1.resid_post"])
        assert torch.equal(edited.reads[site], clean)
        below = network.site("blocks.1.resid_post")
        assert not torch.equal(edited.reads[below], network.read(TOKENS, [below])[below])


def test_reads_under_edits_equal_those_of_a_whole_pass() -> None:
    network = load_network(tiny.tiny_gpt2())
    below = network.site("blocks.1.mlp_in")
    edits = {"blocks.0.mlp_out": zero_ablate(), "final_norm": zero_ablate()}
    assert torch.equal(
        network.read(TOKENS, [below], edits=edits)[below], network.run(TOKENS, edits=edits, reads=[below]).reads[below]
    )


def test_a_site_does_not_depend_on_the_rest_of_the_batch() -> None:
    network = load_network(tiny.tiny_neox())
    site = network.site("blocks.1.resid_post")
    both = network.read(TOKENS, [site])[site]
    alone = network.read(TOKENS[1:], [site])[site]
    assert torch.allclose(both[1:], alone, atol=1e-6)


# Edits


def test_an_edit_reaches_only_later_positions_of_a_causal_network() -> None:
    network = load_network(tiny.tiny_llama())
    positions = torch.zeros(2, 7, dtype=torch.bool)
    positions[0, 3] = True
    clean = network.logits(TOKENS)
    edited = network.run(TOKENS, edits={"blocks.0.resid_post": add(torch.ones(16), positions=positions)}).logits
    assert torch.equal(edited[1], clean[1])
    assert torch.equal(edited[0, :3], clean[0, :3])
    assert (edited[0, 3:] - clean[0, 3:]).abs().amax(-1).min() > 0


def test_an_edit_of_the_last_stream_is_an_edit_of_the_read_out() -> None:
    network = load_network(tiny.tiny_gpt2())
    vector = torch.randn(16)
    clean = network.read(TOKENS, ["blocks.1.resid_post"])[network.site("blocks.1.resid_post")]
    got = network.run(TOKENS, edits={"blocks.1.resid_post": add(vector)}).logits
    assert torch.allclose(got, network.unembed(clean + vector), atol=1e-5)
    assert torch.allclose(network.logits(TOKENS), network.unembed(clean), atol=1e-5)


def test_replacing_a_site_with_another_pass_s_value_gives_the_other_pass() -> None:
    network = load_network(tiny.tiny_gpt2())
    other = TOKENS.flip(1)
    site = network.site("blocks.0.resid_mid")
    donor = network.read(other, [site])[site]
    got = network.run(TOKENS, edits={site: replace(donor)}).logits
    assert torch.equal(got, network.logits(other))


def test_the_ablations() -> None:
    x = torch.randn(2, 3, 4)
    mean = torch.randn(4)
    positions = torch.tensor([[True, False, False]])
    assert torch.equal(zero_ablate()(x), torch.zeros_like(x))
    assert torch.equal(mean_ablate(mean)(x), mean.expand(2, 3, 4))
    masked = mean_ablate(mean, positions=positions)(x)
    assert torch.equal(masked[:, 0], mean.expand(2, 4))
    assert torch.equal(masked[:, 1:], x[:, 1:])
    assert torch.equal(add(mean)(x), x + mean)


def test_an_edit_of_the_wrong_width_is_an_error() -> None:
    network = load_network(tiny.tiny_gpt2())
    for edit in (add(torch.ones(15)), replace(torch.ones(2, 7, 17)), mean_ablate(torch.ones(4))):
        with pytest.raises(InputError, match="does not fit vectors of shape"):
            network.run(TOKENS, edits={"blocks.0.resid_post": edit})


def test_edits_of_several_heads_and_of_the_whole_vector_apply_in_order() -> None:
    network = load_network(tiny.tiny_gpt2())
    heads = {f"blocks.0.attn.head.{head}": zero_ablate() for head in range(4)}
    z = "blocks.0.attn.z"
    expected = network.run(TOKENS, edits={z: zero_ablate()}).logits
    assert torch.equal(network.run(TOKENS, edits=heads).logits, expected)
    one = network.run(TOKENS, edits={z: add(torch.ones(16)), "blocks.0.attn.head.2": zero_ablate()}).logits
    wanted = torch.ones(16)
    wanted[8:12] = 0

    def by_hand(x: Tensor) -> Tensor:
        return torch.cat([x[..., :8], torch.zeros_like(x[..., 8:12]), x[..., 12:]], -1) + wanted

    assert torch.equal(one, network.run(TOKENS, edits={z: by_hand}).logits)


def test_an_edit_that_works_in_place_is_the_same_as_one_that_does_not() -> None:
    network = load_network(tiny.tiny_gpt2())
    site = network.site("blocks.0.resid_post")

    def in_place(x: Tensor) -> Tensor:
        x.mul_(2)
        return x

    got = network.run(TOKENS, edits={site: in_place}, reads=[site])
    want = network.run(TOKENS, edits={site: lambda x: x * 2}, reads=[site])
    assert torch.equal(got.logits, want.logits)
    assert torch.equal(got.reads[site], want.reads[site])


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 48)), st.integers(1, 2), st.integers(1, 9))
def test_identity_at_any_set_of_sites_is_exact(chosen: set[int], batch: int, length: int) -> None:
    network = load_network(tiny.tiny_gpt2())
    names = network.site_names()
    tokens = torch.randint(0, tiny.VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))
    edits = {network.site(names[i]): torch.clone for i in chosen}
    assert torch.equal(network.run(tokens, edits=edits).logits, network.logits(tokens))


# Partial logits


@pytest.mark.parametrize("kind", [*CAUSAL, "mamba", "bert"])
def test_logits_at_some_positions_are_those_of_all(kind: str) -> None:
    network = load_network({**CAUSAL, "mamba": tiny.tiny_mamba, "bert": tiny.tiny_bert}[kind]())
    at = torch.zeros(2, 7, dtype=torch.bool)
    at[0, 2] = at[1, 5] = at[1, 6] = True
    edits = {"blocks.0.resid_post": zero_ablate(positions=at)}
    output = network.run(TOKENS, logits_at=at, edits=edits, reads=["blocks.1.resid_post"])
    assert output.logits.shape == (3, tiny.VOCABULARY)
    assert torch.allclose(output.logits, network.run(TOKENS, edits=edits).logits[at], atol=1e-5)
    assert output.reads[network.site("blocks.1.resid_post")].shape == (2, 7, 16)


def test_logits_at_none_and_at_a_wrong_shape() -> None:
    network = load_network(tiny.tiny_gpt2())
    nowhere = torch.zeros(2, 7, dtype=torch.bool)
    assert network.run(TOKENS, logits_at=nowhere).logits.shape == (0, tiny.VOCABULARY)
    with pytest.raises(InputError, match="logits_at has shape"):
        network.run(TOKENS, logits_at=nowhere[:, :5])


def test_the_unembedding_is_computed_for_the_selected_rows_alone() -> None:
    network = load_network(tiny.tiny_gpt2())
    rows: list[tuple[int, ...]] = []
    network.module.lm_head.register_forward_hook(lambda _, __, output: rows.append(tuple(output.shape)))
    at = torch.zeros(2, 7, dtype=torch.bool)
    at[1, 1] = True
    network.run(TOKENS, logits_at=at)
    assert rows == [(1, tiny.VOCABULARY)]


# 4-D masks


@each_causal
def test_a_causal_4d_mask_with_positions_is_the_plain_pass(kind: str) -> None:
    network = load_network(CAUSAL[kind]())
    assert network.supports_4d_mask
    mask = torch.full((7, 7), float("-inf")).triu(1).expand(2, 1, 7, 7)
    got = network.run(TOKENS, attention_mask=mask, position_ids=torch.arange(7)[None]).logits
    assert torch.allclose(got, network.logits(TOKENS), atol=1e-5)


@each_causal
def test_two_continuations_share_a_prefix_in_one_pass(kind: str) -> None:
    network = load_network(CAUSAL[kind]())
    prefix, first, second = TOKENS[:1, :4], TOKENS[:1, 4:], TOKENS[1:, 4:]
    packed = torch.cat([prefix, first, second], 1)
    order = torch.arange(10)
    allowed = order[:, None] >= order
    allowed[7:, 4:7] = False
    mask = torch.zeros(10, 10).masked_fill(~allowed, float("-inf"))[None, None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6]])
    logits = network.run(packed, attention_mask=mask, position_ids=positions).logits
    for branch, columns in ((first, [0, 1, 2, 3, 4, 5, 6]), (second, [0, 1, 2, 3, 7, 8, 9])):
        alone = network.logits(torch.cat([prefix, branch], 1))
        assert torch.allclose(logits[:, columns], alone, atol=1e-5)
    # Without the mask the branches see each other, so the comparison above can fail.
    leaked = network.run(packed, position_ids=positions).logits
    assert not torch.allclose(leaked[:, 7:], network.logits(torch.cat([prefix, second], 1))[:, 4:], atol=1e-5)


def test_packed_positions_may_outnumber_the_context() -> None:
    network = load_network(tiny.tiny_gpt2())
    tokens = torch.ones(1, 2 * tiny.CONTEXT, dtype=torch.int64)
    positions = torch.arange(tiny.CONTEXT).repeat(2)[None]
    mask = torch.zeros(1, 1, 2 * tiny.CONTEXT, 2 * tiny.CONTEXT)
    assert network.run(tokens, attention_mask=mask, position_ids=positions).logits.shape[1] == 2 * tiny.CONTEXT


def test_networks_without_4d_masks_say_so() -> None:
    network = load_network(tiny.tiny_mamba())
    assert not network.supports_4d_mask
    with pytest.raises(InputError, match="does not take a"):
        network.run(TOKENS, attention_mask=torch.zeros(2, 1, 7, 7))
    with pytest.raises(InputError, match="no position_ids"):
        network.run(TOKENS, position_ids=torch.arange(7)[None])


def test_a_sliding_window_needs_its_own_mask() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    def mistral(window: int | None) -> Network:
        config = MistralConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=8,
            max_position_embeddings=32,
            sliding_window=window,
        )
        return load_network(MistralForCausalLM(config))

    assert [mistral(window).supports_4d_mask for window in (None, 32, 31)] == [True, True, False]


def test_a_padding_mask_is_passed_on() -> None:
    network = load_network(tiny.tiny_bert())
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[:, 5:] = 0
    got = network.run(TOKENS, attention_mask=mask).logits[:, :5]
    assert torch.allclose(got, network.logits(TOKENS[:, :5]), atol=1e-5)


# Modules of any kind


class Pair(NamedTuple):
    value: Tensor
    note: str


@dataclass
class Named:
    note: str
    value: Tensor


class Part(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.kind = kind

    def forward(self, scale: float = 1.0, *, hidden_states: Tensor) -> Any:
        value = self.linear(hidden_states) * scale
        kinds: dict[str, Any] = {
            "tuple": (value, None),
            "list": [None, value],
            "named": Pair(value, "x"),
            "dataclass": Named("x", value),
            "dict": {"value": value},
            "none": "nothing",
        }
        return kinds[self.kind]


def _value(output: Any) -> Tensor:
    if isinstance(output, (Pair, Named)):
        return output.value
    if isinstance(output, dict):
        return output["value"]
    return next(part for part in output if isinstance(part, Tensor))


class Custom(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.part = Part(kind)
        self.act = nn.ReLU(inplace=True)
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        output = self.part(hidden_states=x)
        if isinstance(output, str):
            return x
        return self.head(self.act(self.act(_value(output)) - 0.1))


def custom(kind: str = "tuple", **options: Any) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Custom(kind)
    return load_network(module, run=lambda module, inputs: module(inputs), **options)


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["tuple", "list", "named", "dataclass", "dict"])
def test_any_return_value_with_a_tensor_is_read_and_edited(kind: str) -> None:
    network = custom(kind)
    part = network.module.part
    site = network.site("part")
    with torch.no_grad():
        value = part.linear(X)
        edited = network.module.head((value + 1).relu().sub(0.1).relu())
    # An in-place module downstream does not reach what was read.
    assert torch.equal(network.run(X, reads=[site]).reads[site], value)
    assert torch.equal(network.read(X, [site])[site], value)
    assert torch.allclose(network.run(X, edits={site: lambda x: x + 1}).logits, edited)


def test_an_input_given_by_keyword_is_read_and_edited() -> None:
    network = custom()
    site = network.site("part.in")
    assert site == Site(path="part", port="in")
    assert torch.equal(network.read(X, [site])[site], X)
    assert torch.equal(network.run(X, edits={site: lambda x: x * 2}).logits, network.logits(X * 2))


def test_a_module_called_twice_is_an_error_unless_its_first_call_is_meant() -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="called more than once"):
            custom().read(X, ["act"])
    with pytest.raises(InputError, match="called more than once"):
        custom().run(X, edits={"act": zero_ablate()})
    network = custom(repeated="first")
    with torch.no_grad():
        assert torch.equal(network.read(X, ["act"])[network.site("act")], network.module.part.linear(X).relu())


def test_an_unknown_module_stops_early_once_it_is_known_to_be_called_once() -> None:
    network = custom()
    assert calls(network, "head", lambda: network.read(X, ["part.linear"])) == 1
    assert calls(network, "head", lambda: network.read(X, ["part.linear"])) == 0


def test_what_cannot_be_read_is_an_error() -> None:
    with pytest.raises(InputError, match="did not reach unused"):
        custom().read(X, ["unused"])
    with pytest.raises(InputError, match="without a tensor"):
        custom("none").read(X, ["part"])
    with pytest.raises(InputError, match="did not reach unused"):
        custom().run(X, edits={"unused": zero_ablate()})


def test_the_width_of_a_custom_module_is_measured_on_its_example() -> None:
    with pytest.raises(InputError, match="example_inputs"):
        custom().width("head")
    assert custom(example_inputs=X[:1]).width("head") == 3


def test_a_known_model_with_a_run_callable_keeps_its_names() -> None:
    network = load_network(tiny.tiny_gpt2(), run=lambda module, inputs: module(inputs, use_cache=False))
    site = network.site("blocks.1.resid_mid")
    plain = load_network(tiny.tiny_gpt2())
    assert torch.equal(network.read(TOKENS, [site])[site], plain.read(TOKENS, [site])[site])
    assert not network.supports_4d_mask
    assert network.width(site) == 16


def test_a_module_without_a_run_callable_is_called_on_its_inputs() -> None:
    network = load_network(nn.Sequential(nn.Linear(4, 2)))
    assert torch.equal(network.logits(X), network.module(X))
    assert network.site("0").path == "0"
    named = load_network(Part("dict"))
    assert torch.equal(named.logits({"hidden_states": X}), named.module.linear(X))


# Sites


def test_module_paths_and_printed_sites_resolve() -> None:
    network = load_network(tiny.tiny_gpt2())
    assert network.site("transformer.h.1.mlp") == network.site("blocks.1.mlp_out")
    assert network.site("transformer.h.1.mlp.out") == network.site("blocks.1.mlp_out")
    for name in network.site_names():
        assert network.site(str(network.site(name))) == network.site(name)


def test_an_unknown_site_names_the_nearest() -> None:
    network = load_network(tiny.tiny_gpt2())
    with pytest.raises(InputError, match=r"blocks 0 to 1.*blocks\.1\.resid_post.*site_names"):
        network.site("blocks.1.resid_pst")
    with pytest.raises(InputError, match=r"transformer\.h\.1\.mlp"):
        network.site("transformer.h.1.mpl")
    with pytest.raises(InputError, match="no site"):
        network.site("blocks.2.resid_post")
    with pytest.raises(InputError, match="no site"):
        network.site(Site(path="nowhere"))
    with pytest.raises(InputError, match="no site"):
        network.site("blocks.0.attn.head.4")
    with pytest.raises(InputError, match="heads are 0 to 3"):
        network.site(Site(path="transformer.h.0.attn.c_proj", port="in", head=4, n_heads=4))
    with pytest.raises(InputError, match="give n_heads"):
        network.site(Site(path="transformer.h.0.attn.c_proj", port="in", head=1))
    with pytest.raises(InputError, match="no site"):
        network.read(TOKENS, ["resid"])


# Bad input


def test_inputs_that_cannot_run_are_errors_before_the_pass() -> None:
    network = load_network(tiny.tiny_gpt2())
    with pytest.raises(InputError, match="vocabulary has 300"):
        network.logits(torch.tensor([[300]]))
    with pytest.raises(InputError, match="context is 32"):
        network.logits(torch.ones(1, 33, dtype=torch.int64))
    with pytest.raises(InputError, match="float tensor"):
        network.logits(torch.ones(1, 3))
    with pytest.raises(InputError, match=r"\[batch, position\]"):
        network.logits(torch.ones(3, dtype=torch.int64))
    with pytest.raises(InputError, match="integer tensor"):
        load_network(tiny.tiny_vit()).logits(TOKENS)
    with pytest.raises(InputError, match="run callable"):
        custom().run(X, attention_mask=torch.ones(5))


def test_keyword_inputs_are_passed_by_name() -> None:
    network = load_network(tiny.tiny_gpt2())
    embedded = network.module.transformer.wte(TOKENS)
    assert torch.equal(network.logits({"inputs_embeds": embedded}), network.logits(TOKENS))


def test_the_read_out() -> None:
    gpt2, vit = load_network(tiny.tiny_gpt2()), load_network(tiny.tiny_vit())
    unembedding = gpt2.unembedding()
    assert unembedding is not None
    assert unembedding.data_ptr() == gpt2.module.transformer.wte.weight.data_ptr()
    assert gpt2.final_norm is gpt2.module.transformer.ln_f
    assert vit.unembedding() is None
    assert load_network(tiny.tiny_bert()).final_norm is None
    with pytest.raises(InputError, match="no known read-out"):
        load_network(gpt2.module.transformer).unembed(torch.ones(1, 16))


def test_bert_read_out() -> None:
    network = load_network(tiny.tiny_bert())
    last = network.read(TOKENS, ["blocks.1.resid_post"])[network.site("blocks.1.resid_post")]
    assert torch.allclose(network.unembed(last), network.logits(TOKENS), atol=1e-5)


# Edits that need other sites


def test_an_edit_is_given_what_other_sites_held_earlier_in_the_same_pass() -> None:
    network = load_network(tiny.tiny_llama())
    read, write = network.site("blocks.0.mlp_in"), network.site("blocks.0.mlp_out")
    mlp = copy.deepcopy(network.module.get_submodule(write.path))
    # Upstream edits reach what is read: the MLP recomputed from it is the MLP.
    upstream = {"blocks.0.resid_pre": add(torch.ones(16))}
    recomputed = {write: EditFrom((read,), lambda _, reads: mlp(reads[read]))}
    output = network.run(TOKENS, edits={**upstream, **recomputed})
    assert torch.equal(output.logits, network.run(TOKENS, edits=upstream).logits)
    assert output.reads == {}, "what an edit needs is not what was asked for"
    halved = network.run(TOKENS, edits={write: EditFrom((read,), lambda _, reads: reads[read] / 2)})
    clean = network.read(TOKENS, [read])[read]
    assert torch.equal(halved.logits, network.run(TOKENS, edits={write: replace(clean / 2)}).logits)


def test_an_edit_may_need_its_own_site_and_is_given_it_before_its_edits() -> None:
    network = load_network(tiny.tiny_gpt2())
    one, other = (network.site(f"blocks.0.attn.head.{n}") for n in (0, 1))
    swapped = {one: EditFrom((one, other), lambda _, r: r[other]), other: EditFrom((one, other), lambda _, r: r[one])}
    got = network.run(TOKENS, edits=swapped, reads=["blocks.0.attn.z"]).reads[network.site("blocks.0.attn.z")]
    clean = network.read(TOKENS, [one, other])
    assert torch.equal(got[..., :4], clean[one])
    expected = network.run(TOKENS, edits={one: replace(clean[other]), other: replace(clean[one])})
    assert torch.equal(network.run(TOKENS, edits=swapped).logits, expected.logits)


def test_an_edit_that_needs_a_later_site_is_refused_before_the_pass() -> None:
    network = load_network(tiny.tiny_gpt2())
    early, late = network.site("blocks.0.mlp_in"), network.site("blocks.1.mlp_in")
    reached: list[Tensor] = []

    def change(x: Tensor, reads: object) -> Tensor:
        reached.append(x)
        return x

    with pytest.raises(InputError, match=r"put at .*h\.0\.mlp\.in depends on .*h\.1\.mlp\.in, which comes later"):
        network.run(TOKENS, edits={early: EditFrom((late,), change)})
    assert not reached
    with pytest.raises(InputError, match="comes later"):
        network.check_order(["blocks.0.mlp_in", "blocks.0.mlp_out"], ["blocks.0.mlp_in"])
    network.check_order([early, "blocks.0.mlp_out"], ["blocks.0.mlp_out", late])
    network.check_order([early], [early])


def test_what_edits_need_is_read_in_passes_that_start_at_a_block() -> None:
    network = load_network(tiny.tiny_gpt2(n_layer=3))
    read, write = network.site("blocks.1.mlp_in"), network.site("blocks.2.mlp_out")
    edits = {write: EditFrom((read,), lambda x, reads: x + reads[read])}
    whole = network.run(TOKENS, edits=edits).logits
    for sites, n_first in (([read, write], 0), ([write], 1)):
        prefix = network.prefix(TOKENS, sites)
        begun = partial(network.run, TOKENS, edits=edits, prefix=prefix)
        assert torch.equal(begun().logits, whole)
        assert calls(network, "transformer.h.0.attn", begun) == n_first, "no block is skipped that holds what is read"
        rows = torch.zeros(TOKENS.shape, dtype=torch.bool)
        rows[0, 3] = True
        assert torch.allclose(begun(logits_at=rows).logits[0], whole[0, 3], atol=1e-6)
