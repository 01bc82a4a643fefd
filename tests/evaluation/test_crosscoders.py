"""Crosscoders read the clean pass at all their sites and are patched at all of them in one pass: known answers."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polyseme.activations.massive import Ordinary
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.dictionaries import TopKConfig
from polyseme.evaluation import ContinuationConfig, clean_reads, continue_text, patch_edits, splice
from polyseme.networks import Network, load_network, replace
from tests.evaluation.fakes import FIRST, SECOND, VOCABULARY, WIDTH, FakeNetwork, Identity, Linear, make_windows
from tests.tiny import tiny_gpt2

WINDOWS = make_windows(12)
SPECIAL = torch.from_numpy(WINDOWS.special)
TOKENS = torch.from_numpy(WINDOWS.tokens).long()
BOTH = Binding((FIRST, SECOND), (FIRST, SECOND), "both")
ZEROS = {site: torch.zeros(WIDTH) for site in (FIRST, SECOND)}


class Straight(FakeNetwork):
    """first = E[token]; second = first M; logits = (first + second) U: linear, so every splice has a closed form."""

    M = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(7))

    def _forward(self, tokens, edits):
        self.passes += 1
        first = edits.get(FIRST, lambda x: x)(self.embedding[tokens])
        return {FIRST: first, SECOND: edits.get(SECOND, lambda x: x)(first @ self.M)}

    def run(self, inputs, *, edits=None, logits_at=None, prefix=None):
        vectors = self._forward(inputs, edits or {})
        found = super().run(inputs, edits={SECOND: lambda _: vectors[FIRST] + vectors[SECOND]}, logits_at=logits_at)
        self.passes -= 1
        return found


class Scaled(Identity):
    """Writes `own` of what it reads at the first site and `other` of what it reads at the second."""

    def __init__(self, own: float, other: float, *, crossed: bool = False):
        super().__init__(2 * WIDTH)
        self.scale = torch.cat([torch.full((WIDTH,), own), torch.full((WIDTH,), other)])
        self.crossed = crossed

    def decode(self, z: Latents) -> Tensor:
        read = super().decode(z)
        return self.scale * (read.roll(WIDTH, dims=1) if self.crossed else read)


def ce(logits: Tensor) -> float:
    """Mean loss over the targets that count."""
    keep = ~SPECIAL[:, 1:]
    return float(cross_entropy(logits[:, :-1][keep].double(), TOKENS[:, 1:][keep]))


def measured(network, chosen, means=None, **options) -> dict[tuple[str, str], float]:
    found = splice(network, WINDOWS, {"s": chosen}, means or ZEROS, n_resamples=10, **options)["s"]
    return {(r.name, str(r.scope["site"])): r.value for r in found if r.scope.get("ablation") != "mean"}


def test_a_splice_in_a_linear_network_has_its_closed_form():
    """second is written as b · x M of the clean x, and never as a b · x M of what the first write made of it."""
    network, (a, b) = Straight(), (0.5, -1.5)
    x, M = network.embedding[TOKENS], Straight.M
    own, other = (torch.where(SPECIAL, 1.0, scale)[..., None] for scale in (a, b))
    found = measured(network, {BOTH: Scaled(a, b)})
    assert found["ce_clean", "both"] == pytest.approx(ce((x + x @ M) @ network.unembedding), rel=1e-5)
    right = ce((own * x + other * (x @ M)) @ network.unembedding)
    wrong = ce((own * x + other * own * (x @ M)) @ network.unembedding)
    assert found["ce_patched", "both"] == pytest.approx(right, rel=1e-5)
    assert abs(right - wrong) > 0.1
    crossed = measured(network, {BOTH: Scaled(a, b, crossed=True)})
    hand = torch.where(SPECIAL[..., None], x + x @ M, a * (x @ M) + b * x)
    assert crossed["ce_patched", "both"] == pytest.approx(ce(hand @ network.unembedding), rel=1e-5)


def test_the_identity_patches_bit_for_bit_and_costs_no_pass():
    network = Straight()
    found = measured(network, {BOTH: Identity(2 * WIDTH)}, batch_windows=1)
    assert found["ce_patched", "both"] == found["ce_clean", "both"]
    assert found["kl", "both"] == 0
    assert network.passes == 4 * len(WINDOWS)  # clean, zero, mean, patched: the clean pass is where it reads


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(tiny_gpt2(vocab_size=VOCABULARY))


@pytest.fixture(scope="module")
def binding(network: Network) -> Binding:
    names = ("blocks.0.mlp_out", "blocks.1.resid_post")
    return Binding(names, names, "cross").map(network.site)


@pytest.fixture(scope="module")
def crosscoder():
    return TopKConfig(n_latents=48, k=6).build(32, 32, seed=2)


def hand_made(network: Network, binding: Binding, crosscoder, positions: Tensor = ~SPECIAL) -> dict:
    """Edits that put what the crosscoder makes of a clean pass in the place of the clean vectors."""
    clean = network.read(TOKENS, binding.reads)
    x = torch.cat([clean[site][positions] for site in binding.reads], 1)
    output = crosscoder.decode(crosscoder.encode(x)).split(16, dim=1)
    return {site: put(part, positions) for site, part in zip(binding.writes, output, strict=True)}


def put(rows: Tensor, positions: Tensor):
    def edit(x: Tensor) -> Tensor:
        x[positions] = rows
        return x

    return edit


def test_a_dictionary_as_wide_as_its_sites_together_is_spliced_in_as_two_hand_made_passes(network, binding, crosscoder):
    assert crosscoder.d_in == sum(network.width(site) for site in binding.reads)
    means = {site: torch.zeros(16) for site in binding.writes}
    found = measured(network, {binding: crosscoder}, means)
    hand = network.run(TOKENS, edits=hand_made(network, binding, crosscoder)).logits
    assert found["ce_patched", "cross"] == pytest.approx(ce(hand), rel=1e-6)
    assert abs(found["ce_increase", "cross"]) > 1e-3
    zero = {site: replace(torch.zeros(16), positions=~SPECIAL) for site in binding.writes}
    assert found["ce_zero", "cross"] == pytest.approx(ce(network.run(TOKENS, edits=zero).logits), rel=1e-6)


def test_jointly_it_still_reads_the_clean_pass_and_others_read_what_it_made(network, binding, crosscoder):
    upstream = Binding.at(network.site("embed"), "embed")
    between = Binding.at(network.site("blocks.0.resid_post"), "between")
    first, second = (Linear(24, 16, seed=seed, bias=0.0) for seed in (3, 4))
    chosen = {upstream: first, binding: crosscoder, between: second}
    means = {site: torch.zeros(16) for b in chosen for site in b.writes}
    found = measured(network, chosen, means)
    counted = ~SPECIAL

    def stands_for(dictionary: Linear):
        def edit(x: Tensor) -> Tensor:
            x[counted] = dictionary.decode(dictionary.encode(x[counted]))
            return x

        return edit

    edits = hand_made(network, binding, crosscoder)
    edits |= {upstream.writes[0]: stands_for(first), between.writes[0]: stands_for(second)}
    assert found["ce_patched", "joint"] == pytest.approx(ce(network.run(TOKENS, edits=edits).logits), rel=1e-6)


def test_a_token_that_training_left_out_at_one_site_keeps_its_vectors_at_both(network, binding, crosscoder):
    clean = network.read(TOKENS, binding.reads)
    sizes = {site: clean[site].norm(dim=-1) for site in binding.reads}
    limits = {site: float(size[~SPECIAL].quantile(0.8)) for site, size in sizes.items()}
    kept = ~SPECIAL
    for site in binding.reads:
        kept = kept & (sizes[site] <= limits[site])
    assert 0 < int(kept.sum()) < int((~SPECIAL).sum())
    trained_on = {site: Ordinary(torch.zeros(16), limit) for site, limit in limits.items()}
    found = measured(
        network, {binding: crosscoder}, {site: torch.zeros(16) for site in binding.writes}, trained_on=trained_on
    )
    hand = network.run(TOKENS, edits=hand_made(network, binding, crosscoder, kept)).logits
    assert found["ce_patched", "cross"] == pytest.approx(ce(hand), rel=1e-6)
    edits = patch_edits(
        network, {binding: crosscoder}, {binding: ~SPECIAL}, trained_on, {s: clean[s] for s in binding.reads}
    )
    torch.testing.assert_close(network.run(TOKENS, edits=edits).logits, hand)


class Words:
    """Token ids as words, none of them special."""

    all_special_ids = ()
    eos_token_id = pad_token_id = bos_token_id = None

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


def test_text_is_continued_with_each_tokens_own_clean_pass(network, binding, crosscoder):
    config = ContinuationConfig(n_prompts=2, prompt_tokens=4, new_tokens=3)
    found = continue_text(network, WINDOWS, {binding: crosscoder}, tokenizer=Words(), config=config)
    for text in found:
        tokens = torch.tensor([[int(word) for word in text.prompt.split()]])
        row = next(w for w in range(len(WINDOWS)) if torch.equal(TOKENS[w, :4], tokens[0]))
        counted = ~SPECIAL[row : row + 1, :4]
        for word in text.patched_tokens:
            clean = network.read(tokens, binding.reads)
            x = torch.cat([clean[site][counted] for site in binding.reads], 1)
            output = crosscoder.decode(crosscoder.encode(x)).split(16, dim=1)
            edits = {site: put(part, counted) for site, part in zip(binding.writes, output, strict=True)}
            chosen = int(network.run(tokens, edits=edits).logits[0, -1].argmax())
            assert chosen == int(word)
            tokens = torch.cat([tokens, torch.tensor([[chosen]])], 1)
            counted = torch.cat([counted, torch.tensor([[True]])], 1)


def test_only_what_must_be_is_read_in_the_clean_pass(network, binding):
    heads = Binding(*[tuple(f"blocks.0.attn.head.{h}" for h in range(2))] * 2).map(network.site)
    mlp = Binding(("blocks.0.mlp_in",), ("blocks.0.mlp_out",)).map(network.site)
    at = Binding.at(binding.reads[1])
    assert clean_reads(network, [heads, mlp, at]) == []
    assert clean_reads(network, [heads, binding, at]) == list(binding.reads)
    with pytest.raises(InputError, match="comes later in the forward pass"):
        clean_reads(network, [Binding(binding.reads, binding.writes[:1])])


def test_edits_of_a_crosscoder_without_its_clean_reads_are_refused(network, binding, crosscoder):
    with pytest.raises(InputError, match=r"cross reads .* after a site that it writes.*clean_reads"):
        patch_edits(network, {binding: crosscoder}, {binding: ~SPECIAL})
