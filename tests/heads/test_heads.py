"""Head scores against hand-made attention, and the maps against what the modules themselves compute."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.heads import (
    HeadScoresConfig,
    Pattern,
    attention_patterns,
    copying_scores,
    head_maps,
    head_scores,
    prefix_matching,
    previous_token,
    repeated_sequences,
)
from polyseme.networks import load_network, zero_ablate
from tests import tiny

FAMILIES = {"gpt2": tiny.tiny_gpt2, "gpt_neox": tiny.tiny_neox, "llama": tiny.tiny_llama, "bert": tiny.tiny_bert}


class HandMade(nn.Module):
    """One layer, two heads: head 0 attends to i − 1, head 1 to where induction would; both copy with sign ±1."""

    def __init__(self, vocabulary: int = 6, length: int = 4):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, vocabulary)
        self.embed.weight.data = torch.eye(vocabulary)
        self.head = nn.Linear(vocabulary, vocabulary, bias=False)
        self.head.weight.data = torch.eye(vocabulary)
        self.attention = nn.Module()
        self.attention.n_heads = 2
        self.attention.pattern = Pattern()
        self.attention.v_proj = nn.Linear(vocabulary, 2 * vocabulary, bias=False)
        self.attention.o_proj = nn.Linear(2 * vocabulary, vocabulary, bias=False)
        self.attention.v_proj.weight.data = torch.cat([torch.eye(vocabulary)] * 2)
        self.attention.o_proj.weight.data = torch.cat([torch.eye(vocabulary), -torch.eye(vocabulary)], dim=1)
        self.length = length

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, tokens: Tensor) -> Tensor:
        x, n = self.embed(tokens), tokens.shape[1]
        pattern = torch.zeros(len(tokens), 2, n, n)
        for i in range(n):
            pattern[:, 0, i, max(0, i - 1)] = 1
            pattern[:, 1, i, max(0, i - self.length + 1)] = 1
        pattern = self.attention.pattern(pattern)
        values = self.attention.v_proj(x).unflatten(-1, (2, -1))
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, values).flatten(-2)
        return self.head(x + self.attention.o_proj(z))


def hand_made() -> Any:
    return load_network(HandMade(), example_inputs=torch.zeros(1, 8, dtype=torch.long))


def test_scores_of_hand_made_heads() -> None:
    config = HeadScoresConfig(n_sequences=5, length=4)
    found = {(r.name, r.scope["head"]): r for r in head_scores(hand_made(), config)}
    assert found["previous_token", 0].value == 1
    assert found["prefix_matching", 1].value == 1
    assert found["prefix_matching", 0].value == 0
    assert found["copying", 0].value == pytest.approx(1)
    assert found["copying", 1].value == pytest.approx(-1)
    assert found["previous_token", 0].n == 5
    # 1/2 … 1/8 under uniform attention to all that is seen (a module of one's own is not known to be causal or not).
    assert 0 < found["previous_token", 0].details["uniform_attention"] < 0.5


def test_uniform_attention_scores_its_null() -> None:
    length = 6
    uniform = torch.tril(torch.ones(12, 12)) / torch.arange(1, 13)[:, None]
    assert previous_token(uniform) == pytest.approx(sum(1 / i for i in range(2, 13)) / 11)
    assert prefix_matching(uniform, length) == pytest.approx(sum(1 / i for i in range(7, 13)) / 6)


def test_bos_does_not_shift_prefix_matching() -> None:
    pattern = torch.zeros(9, 9)
    for query in range(5, 9):
        pattern[query, query - 3] = 1  # BOS, then four tokens twice: the match at t − 4, what followed at t − 3
    assert prefix_matching(pattern, 4) == 1


def test_sequences_repeat_and_are_a_function_of_the_seed() -> None:
    config = HeadScoresConfig(n_sequences=3, length=7, bos=1, vocabulary=(2, 9))
    tokens = repeated_sequences(config, 20)
    assert tokens.shape == (3, 15)
    assert torch.equal(tokens[:, 1:8], tokens[:, 8:])
    assert (tokens[:, 0] == 1).all()
    assert tokens[:, 1:].min() >= 2
    assert tokens.max() < 9
    assert torch.equal(tokens, repeated_sequences(config, 20))
    with pytest.raises(InputError, match="vocabulary of 5"):
        repeated_sequences(config, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_what_the_model_reports(family: str) -> None:
    module = FAMILIES[family]()
    network = load_network(module)
    tokens = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    before = module.config._attn_implementation
    patterns = attention_patterns(network, tokens)
    assert module.config._attn_implementation == before
    assert patterns.shape == (2, 2, 4, 9, 9)
    assert torch.allclose(patterns.sum(-1), torch.ones(2, 2, 4, 9), atol=1e-5)
    module.set_attn_implementation("eager")
    expected = torch.stack(module(tokens, output_attentions=True).attentions)
    assert torch.allclose(patterns, expected, atol=1e-6)


def test_edits_reach_the_patterns() -> None:
    network = load_network(tiny.tiny_gpt2())
    tokens = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    clean = attention_patterns(network, tokens)
    edited = attention_patterns(network, tokens, edits={"blocks.0.attn_out": zero_ablate()})
    assert torch.equal(clean[0], edited[0])
    assert not torch.allclose(clean[1], edited[1])


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_maps_are_what_the_attention_computes(family: str) -> None:
    """Σ_h pattern_h · (x W_V W_O) equals the attention's output, less what a zero input gives (the biases)."""
    module = FAMILIES[family]()
    network = load_network(module)
    tokens = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    patterns = attention_patterns(network, tokens)
    site_in, site_out = network.site("blocks.1.attn_in"), network.site("blocks.1.attn_out")
    read = network.read(tokens, [site_in, site_out])
    maps = head_maps(network)[1]
    moved = torch.einsum("bhqk,bkd,hde,hef->bqf", patterns[1], read[site_in], maps.W_V, maps.W_O)
    rest = read[site_out] - moved
    assert torch.allclose(rest, rest[:1, :1].expand_as(rest), atol=1e-4)  # a constant: the biases


def test_copying_is_the_trace_over_the_whole_vocabulary() -> None:
    module = tiny.tiny_llama()
    network = load_network(module)
    maps = head_maps(network)[0]
    W_E = module.get_input_embeddings().weight.double()
    W_U = network.unembedding().double() * module.model.norm.weight.double()
    full = W_E * maps.gain.double() @ maps.W_V[1].double() @ maps.W_O[1].double() @ W_U.T
    eigenvalues = torch.linalg.eigvals(full)
    expected = eigenvalues.sum().real / eigenvalues.abs().sum()
    assert copying_scores(network)[0, 1] == pytest.approx(float(expected), abs=1e-4)


def test_a_network_without_attention_is_told() -> None:
    tokens = torch.zeros(1, 8, dtype=torch.long)
    with pytest.raises(InputError, match="no attention pattern"):
        attention_patterns(load_network(tiny.tiny_mamba()), tokens)
    with pytest.raises(InputError, match="context of 32"):
        head_scores(load_network(tiny.tiny_gpt2()), HeadScoresConfig(length=17))
