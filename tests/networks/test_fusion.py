"""Fused linear maps: equal to plain ones, out of the way of sites, hooks and gradients, plain where they must be."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyseme.kernels import onednn
from polyseme.networks import Network, NetworkConfig, add, fusion, load_network
from polyseme.nulls import make_null
from tests import tiny
from tests.networks.test_families import CASES, each_family, inputs_of

PAIRS = {
    "gpt2": ("transformer.h.{n}.mlp.c_fc", "transformer.h.{n}.mlp.act"),
    "neox": ("gpt_neox.layers.{n}.mlp.dense_h_to_4h", "gpt_neox.layers.{n}.mlp.act"),
    "neox_sequential": ("gpt_neox.layers.{n}.mlp.dense_h_to_4h", "gpt_neox.layers.{n}.mlp.act"),
    "llama": ("model.layers.{n}.mlp.gate_proj", "model.layers.{n}.mlp.act_fn"),
    "bert": ("bert.encoder.layer.{n}.intermediate.dense", "bert.encoder.layer.{n}.intermediate.intermediate_act_fn"),
    "vit": ("vit.layers.{n}.mlp.fc1", "vit.layers.{n}.mlp.activation_fn"),
}
each_pair = pytest.mark.parametrize("family", PAIRS)
needs_onednn = pytest.mark.skipif(fusion.operation(torch.float32) is None, reason="this torch has no fused linear map")


def both(family: str) -> tuple[Network, Network]:
    make = CASES[family][0]
    return load_network(make()), load_network(make(), linear="fused")


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The epilogues that oneDNN computes from here on."""
    seen: list[str] = []
    operation = fusion.operation(torch.float32)

    def counting(x: Tensor, weight: Tensor, bias: Tensor | None, attribute: str, *rest: Any) -> Tensor:
        seen.append(attribute)
        assert operation is not None
        return operation(x, weight, bias, attribute, *rest)

    monkeypatch.setattr(fusion, "operation", lambda dtype: counting if dtype == torch.float32 else None)
    return seen


@each_family
def test_every_site_and_the_logits_equal_the_plain_ones(family: str) -> None:
    plain, fused = both(family)
    inputs, names = inputs_of(family), plain.site_names()
    expected, got = (network.read(inputs, names) for network in (plain, fused))
    assert got.keys() == expected.keys()
    assert all(error(got[site], expected[site]) < 1e-5 for site in expected)
    assert error(fused.logits(inputs), plain.logits(inputs)) < 1e-5


@each_family
def test_edits_at_every_site_equal_the_plain_ones(family: str) -> None:
    plain, fused = both(family)
    inputs = inputs_of(family)
    for name in [name for name in plain.site_names() if ".head." not in name and "hook" not in name]:
        edits = {name: add(torch.linspace(-1, 2, plain.width(name)))}
        assert error(fused.run(inputs, edits=edits).logits, plain.run(inputs, edits=edits).logits) < 1e-5, name


@needs_onednn
@each_pair
def test_a_blocks_non_linearity_is_computed_with_the_product(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    _, fused = both(family)
    fused.logits(inputs_of(family))
    assert len([attribute for attribute in seen if attribute != "none"]) == fused.n_blocks


@each_pair
def test_a_site_between_the_two_is_read_and_edited_before_the_non_linearity(family: str) -> None:
    plain, fused = both(family)
    inputs = inputs_of(family)
    linear, activation = (path.format(n=1) for path in PAIRS[family])
    for place in (linear, f"{activation}.in"):
        read = [network.read(inputs, [place])[network.site(place)] for network in (plain, fused)]
        assert (read[0] < -0.2).any()  # no GELU or SiLU gives less
        assert error(read[1], read[0]) < 1e-5
        edits = {place: add(torch.linspace(-1, 2, plain.width(place)))}
        logits = [network.run(inputs, edits=edits).logits for network in (plain, fused)]
        assert error(logits[1], logits[0]) < 1e-5
        assert error(logits[1], fused.logits(inputs)) > 1e-3
    after = [network.read(inputs, [activation])[network.site(activation)] for network in (plain, fused)]
    assert error(after[1], after[0]) < 1e-5


@each_pair
def test_a_hook_of_ones_own_between_the_two_sees_the_plain_value(family: str) -> None:
    plain, fused = both(family)
    seen: list[Tensor] = []

    def once(_module: nn.Module, _args: Any, output: Tensor) -> None:
        seen.append(output.clone())
        handle.remove()  # before the non-linearity runs

    for network in (plain, fused):
        handle = network.module.get_submodule(PAIRS[family][0].format(n=0)).register_forward_hook(once)
        seen.append(network.logits(inputs_of(family)))
    assert error(seen[2], seen[0]) < 1e-5
    assert error(seen[3], seen[1]) < 1e-5


def laid_out(module: nn.Module) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {name: (tensor.data_ptr(), tensor.stride()) for name, tensor in module.state_dict().items()}


def test_modules_values_and_the_module_given_stay() -> None:
    module = tiny.tiny_gpt2()
    before = laid_out(module)
    fused = load_network(module, linear="fused").module
    assert fused is not module
    assert not fusion.fused_parts(module)
    assert laid_out(module) == before
    assert [(name, type(part)) for name, part in fused.named_modules()] == [
        (name, type(part)) for name, part in module.named_modules()
    ]
    values = module.state_dict()
    assert all(torch.equal(tensor, values[name]) for name, tensor in fused.state_dict().items())
    # What is not laid out anew is shared.
    apart = {name for name, place in laid_out(fused).items() if place != before[name]}
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    conv1d = {f"transformer.h.{n}.{part}.weight" for n in range(2) for part in parts}
    assert apart == (conv1d if fusion.fused_parts(fused) else set())


@needs_onednn
def test_a_copy_is_fused_with_its_own_weights() -> None:
    tokens, fused = inputs_of("gpt2"), load_network(tiny.tiny_gpt2(), linear="fused")
    before = fused.logits(tokens)
    copied = copy.deepcopy(fused.module)
    assert fusion.fused_parts(copied)
    with torch.no_grad():
        copied.transformer.h[1].mlp.c_fc.weight.mul_(-1)
    assert torch.equal(fused.logits(tokens), before)
    assert error(load_network(copied).logits(tokens), before) > 1e-3


@needs_onednn
def test_the_fingerprint_says_so_and_keeps_the_plain_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.tiny_gpt2().save_pretrained(tmp_path)
    config = NetworkConfig(source=str(tmp_path), device="cpu", linear="fused")
    plain, fused = both("gpt2")
    assert fused.fingerprint != plain.fingerprint
    assert config.build().fingerprint == fused.fingerprint
    null = make_null("gaussian_reinit")
    random = [null.network(network) for network in (plain, fused)]
    assert random[0].fingerprint == null.network(load_network(tiny.tiny_gpt2())).fingerprint
    assert random[1].fingerprint == null.network(load_network(tiny.tiny_gpt2(), linear="fused")).fingerprint
    assert len({network.fingerprint for network in (plain, fused, *random)}) == 4
    monkeypatch.setattr(fusion, "operation", lambda _dtype: None)
    assert config.build().fingerprint == plain.fingerprint


@each_family
def test_without_the_private_operation_values_are_the_plain_ones_bit_for_bit(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fused = both(family)
    monkeypatch.setattr(fusion, "operation", lambda _dtype: None)
    late = load_network(CASES[family][0](), linear="fused")
    assert not fusion.fused_parts(late.module)
    expected = plain.logits(inputs_of(family))
    assert torch.equal(late.logits(inputs_of(family)), expected)
    assert error(fused.logits(inputs_of(family)), expected) < 1e-5


@pytest.mark.parametrize("broken", ["missing", "raises", "wrong"])
def test_an_operation_that_fails_its_trial_is_not_used(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def operation(x: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> Tensor:
        if broken == "raises":
            raise RuntimeError("mkldnn_linear_pointwise: ATen not compiled with MKLDNN support")
        return nn.functional.linear(x, weight, bias)  # of no use for an epilogue

    mkldnn: Any = type("ops", (), {} if broken == "missing" else {"_linear_pointwise": staticmethod(operation)})
    monkeypatch.setattr(torch.ops, "mkldnn", mkldnn, raising=False)
    assert onednn.operation.__wrapped__(torch.float32) is None


def test_gradients_autocast_other_precisions_and_empty_tensors_take_the_plain_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = calls(monkeypatch)
    plain, fused = (network.module for network in both("gpt2"))
    embedded = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for module in (plain, fused):
        vectors = embedded.clone().requires_grad_()
        module(inputs_embeds=vectors, use_cache=False).logits.square().sum().backward()
        gradients.append(vectors.grad)
    assert torch.equal(*gradients)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(*(module(inputs_embeds=embedded, use_cache=False).logits for module in (plain, fused)))
    assert fused.transformer.h[0].mlp(embedded[:0]).shape == (0, 5, 16)
    double = fused.double()
    assert double(inputs_embeds=embedded.double(), use_cache=False).logits.dtype == torch.float64
    assert seen == []


def test_subclasses_and_wrapped_modules_are_left_alone() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Scaled(4, 4), nn.Linear(4, 2))
    wrapped = module[3].forward
    module[3].forward = lambda x: wrapped(x) + 1
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x)
        n = fusion.fuse(module, [("0", "1"), ("7", "8")])
        assert error(module(x), expected) < 1e-5
    assert n <= 1
    assert "forward" not in vars(module[2])


@needs_onednn
@pytest.mark.skipif(fusion.operation(torch.bfloat16) is None, reason="no bfloat16 on this processor")
def test_half_precision_agrees_to_its_own_rounding() -> None:
    tokens = inputs_of("gpt2")
    plain, fused = (load_network(tiny.tiny_gpt2(), dtype="bfloat16", linear=how) for how in ("plain", "fused"))
    whole = load_network(tiny.tiny_gpt2()).logits(tokens)
    assert error(fused.logits(tokens).float(), whole) < 2 * error(plain.logits(tokens).float(), whole)
