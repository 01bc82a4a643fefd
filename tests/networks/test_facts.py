"""What a network is: causality, predictions, vocabulary and context are measured, and no name decides them."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyseme.networks import load_network, zero_ablate
from tests import tiny
from tests.networks.architectures import ARCHITECTURES, CONTEXT, VOCABULARY, made


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_an_architecture_is(name: str) -> None:
    expected, network = ARCHITECTURES[name], load_network(made(name))
    assert network.reads_tokens == expected.tokens
    assert network.causal == expected.causal
    assert network.predicts_tokens == expected.predicts
    assert (network.no_prediction is None) == expected.predicts
    assert network.context == expected.context
    if expected.tokens:
        assert network.vocabulary == VOCABULARY
    if expected.tokens and expected.context is not None:
        longest = torch.full((1, CONTEXT), 7)
        network.logits(longest)
        with pytest.raises(ValueError, match=f"context is {CONTEXT}"):
            network.logits(torch.full((1, CONTEXT + 1), 7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["gpt2", "llama, looking ahead", "bert", "bert, decoder", "mamba", "gemma2", "opt"])
def test_rounding_is_not_taken_for_looking_ahead(name: str, dtype: torch.dtype) -> None:
    network = load_network(made(name, dtype))
    assert network.dtype == dtype
    assert network.causal == ARCHITECTURES[name].causal


class Attention(nn.Module):
    """A language model of one's own: one head of attention under a mask of its own, positions by a table."""

    def __init__(self, kind: str = "causal", *, positions: int = 64, table: str = "embedding", vocabulary: int = 50):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.kind, self.table = kind, table
        self.embed = nn.Embedding.from_pretrained(torch.randn(vocabulary, 16, generator=g))
        place = torch.randn(positions, 16, generator=g)
        self.place = nn.Embedding.from_pretrained(place) if table == "embedding" else nn.Parameter(place)
        self.qkv = nn.Parameter(torch.randn(16, 48, generator=g) / 4)
        self.unembed = nn.Parameter(torch.randn(16, vocabulary, generator=g))
        self.block = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        t = torch.arange(tokens.shape[1])
        query, key = t[:, None], t[None]
        seen = {
            "causal": key <= query,
            "local": (key <= query) & (query - key < 3),
            "all": key >= 0,
            "one ahead": key <= query + 1,
            "prefix": (key <= query) | (key < 4),
            "late": (key <= query) | (query >= 30) & (key >= 30),
        }[self.kind]
        place = self.place(t) if isinstance(self.place, nn.Embedding) else self.place[: len(t)]
        assert len(place) == len(t), "too long"
        x = self.embed(tokens) + place
        q, k, v = (x @ self.qkv).chunk(3, -1)
        x = x + (q @ k.mT / 4).masked_fill(~seen, -torch.inf).softmax(-1) @ v
        return self.block(x) @ self.unembed


@pytest.mark.parametrize("kind", ["causal", "local", "all", "one ahead", "prefix", "late"])
def test_any_mask_of_ones_own_is_measured(kind: str) -> None:
    network = load_network(Attention(kind))
    assert network.causal == network.predicts_tokens == (kind in ("causal", "local"))
    assert (network.vocabulary, network.context) == (50, 64)


@pytest.mark.parametrize("table", ["embedding", "parameter"])
@pytest.mark.parametrize("positions", [2, 3, 8])
def test_a_tiny_context(positions: int, table: str) -> None:
    for kind in ("causal", "all"):
        network = load_network(Attention(kind, positions=positions, table=table))
        assert network.causal == (kind == "causal")
        assert network.facts.longest_window(100) == positions
        assert network.vocabulary == 50


class Experts(nn.Module):
    """Tokens choose an expert; with a capacity, an expert chooses its tokens, among later ones too."""

    def __init__(self, capacity: int | None):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.capacity = capacity
        self.embed = nn.Embedding.from_pretrained(torch.randn(30, 8, generator=g))
        self.choose = nn.Parameter(torch.randn(8, 4, generator=g))
        self.experts = nn.Parameter(torch.randn(4, 8, 8, generator=g))
        self.unembed = nn.Linear(8, 30)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        score = x @ self.choose
        out = torch.zeros_like(x)
        for expert in range(4):
            if self.capacity is None:
                of = score.argmax(-1) == expert
            else:
                best = score[..., expert].topk(min(self.capacity, tokens.shape[1]), dim=1).indices
                of = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, best, True)
            out[of] += x[of] @ self.experts[expert]
        return self.unembed(x + out)


def test_experts_with_a_capacity_look_ahead() -> None:
    assert load_network(Experts(None)).causal
    assert not load_network(Experts(4)).causal


class Noisy(Attention):
    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(tokens), 0.1, training=True)


def test_of_a_network_that_rolls_dice_nothing_is_said() -> None:
    network = load_network(Noisy())
    assert not network.causal
    assert "equal rows" in str(network.no_prediction)


@pytest.mark.parametrize("name", ["gemma3, with pictures", "llava", "qwen2-vl"])
def test_a_language_model_that_sees_pictures_has_the_short_names_of_its_family(name: str) -> None:
    network = load_network(made(name))
    assert (network.family, network.n_blocks) == ("gemma2" if "gemma" in name else "llama", 2)
    names = [f"blocks.1.{part}" for part in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]
    tokens = torch.arange(3, 15).reshape(2, 6)
    before, attention, middle, mlp, after = network.read(tokens, names).values()
    torch.testing.assert_close(before + attention, middle)
    torch.testing.assert_close(middle + mlp, after)
    torch.testing.assert_close(network.unembed(after), network.logits(tokens))
    edits = {"blocks.0.resid_post": zero_ablate()}
    begun = network.run(tokens, edits=edits, prefix=network.prefix(tokens, list(edits)))
    assert torch.equal(begun.logits, network.run(tokens, edits=edits).logits)


def test_a_model_that_only_names_a_family_has_no_short_names() -> None:
    from transformers import GPT2Config, PreTrainedModel

    class Mine(PreTrainedModel):
        config_class = GPT2Config

        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            self.h = nn.ModuleList([nn.Linear(4, 4)])
            self.post_init()

    assert load_network(Mine(GPT2Config())).family == "unknown"


def test_dropout_is_off() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)).train()
    network = load_network(model)
    assert network.causal
    assert network.predicts_tokens


def test_what_is_given_stays_and_a_contradiction_is_said() -> None:
    with pytest.warns(UserWarning, match="causal=True was given, but what Attention computes .* depends on later"):
        network = load_network(Attention("all"), causal=True)
    assert network.causal
    assert network.predicts_tokens
    with pytest.warns(UserWarning, match="does not depend on later"):
        network = load_network(tiny.tiny_gpt2(), causal=False)
    assert not network.predicts_tokens
    assert "causal=False" in str(network.no_prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_network(Attention(), causal=True).causal
        assert load_network(nn.Linear(4, 4), causal=True).causal  # nothing to measure it on
    assert not load_network(tiny.tiny_gpt2(), predicts_tokens=False).predicts_tokens


def test_a_network_that_reads_no_tokens_is_not_causal() -> None:
    inputs: tuple[Any, ...] = (nn.Linear(4, 4), nn.Conv2d(3, 4, 3), tiny.tiny_vit())
    for module in inputs:
        network = load_network(module)
        assert not network.reads_tokens
        assert not network.causal
        assert not network.predicts_tokens
        assert "token ids" in str(network.no_prediction)


def test_measuring_leaves_no_trace() -> None:
    model = tiny.tiny_gpt2()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    network = load_network(model)
    assert network.causal
    assert network.predicts_tokens
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
