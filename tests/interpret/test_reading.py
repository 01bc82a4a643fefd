"""Contexts, tokens, logits and neighbours on firings small enough to work out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.corpora.pack import Windows
from polyseme.corpora.spelling import TokenTexts
from polyseme.interpret.contexts import ContextsConfig, LatentReader
from polyseme.interpret.logit_effects import logit_effects
from polyseme.interpret.neighbours import nearest_by_firing, nearest_by_writing
from polyseme.interpret.records import Context

TEXTS = TokenTexts(None)


def firings_of(
    dense: np.ndarray, tokens: np.ndarray, document: np.ndarray, special: np.ndarray
) -> tuple[Firings, Windows]:
    """Windows and firings where row t of `dense` belongs to the t-th token that is not special."""
    window, position = np.nonzero(~special)
    windows = Windows(
        tokens=tokens.astype(np.int32),
        document=document.astype(np.int32),
        special=special,
        names=tuple(f"doc{i}" for i in range(int(document.max()) + 1)),
        n_bytes=np.ones(int(document.max()) + 1, dtype=np.int64),
    )
    ids = (a[window, position].astype(np.int32) for a in (tokens, document))
    matrix = csr_array(dense.astype(np.float32))
    return Firings(matrix, *ids, window.astype(np.int32), position.astype(np.int32)), windows


def small() -> tuple[Firings, Windows]:
    """Two windows of six: BOS, three tokens of document 0, BOS, one of document 1; then five of document 2."""
    tokens = np.array([[0, 5, 6, 7, 0, 5], [0, 5, 8, 6, 9, 5]])
    document = np.array([[0, 0, 0, 0, 1, 1], [2, 2, 2, 2, 2, 2]])
    special = tokens == 0
    dense = np.zeros((9, 3))
    dense[:, 0] = [2.0, 0, 0, 4.0, 0, 1.0, 0, 0, 0]
    dense[:, 1] = [1.0, 0, 0, 1.0, 0, 1.0, 0, 0, 3.0]
    return firings_of(dense, tokens, document, special)


def at(contexts: tuple[Context, ...], stratum: str) -> list[Context]:
    return [c for c in contexts if c.stratum == stratum]


def test_contexts_hold_the_right_tokens_and_activations_and_stop_at_the_document():
    firings, windows = small()
    reader = LatentReader(firings, windows, TEXTS, ContextsConfig(before=3, after=3, n_top=3, n_random=0, n_quantile=0))
    top = at(reader.contexts(0), "top")
    assert [c.activations[c.focus] for c in top] == [4.0, 2.0, 1.0]
    strongest = top[0]
    assert (strongest.document, strongest.position, strongest.tokens) == ("doc1", 5, ("⟨0⟩", "⟨5⟩"))
    assert math.isnan(strongest.activations[0])  # the special token is not read
    second = top[1]
    assert (second.tokens, second.focus) == (("⟨0⟩", "⟨5⟩", "⟨6⟩", "⟨7⟩"), 1)
    assert second.activations[1:] == (2.0, 0.0, 0.0)


def test_near_misses_are_silent_on_the_latents_own_tokens():
    firings, windows = small()
    reader = LatentReader(firings, windows, TEXTS, ContextsConfig(n_near_miss=5, n_silent=4, min_count=1))
    contexts = reader.contexts(0)
    missed = at(contexts, "near_miss")
    assert {(c.document, c.position) for c in missed} == {("doc2", 1), ("doc2", 5)}
    assert all(c.tokens[c.focus] == "⟨5⟩" and c.activations[c.focus] == 0 for c in missed)
    assert len(at(contexts, "silent")) == 4
    assert all(c.activations[c.focus] == 0 for c in at(contexts, "silent"))


def test_loss_effects_stand_at_their_tokens():
    firings, windows = small()
    reader = LatentReader(firings, windows, TEXTS)
    context = reader.contexts(0, {3: 0.25}, {3: 0.5})[0]
    for effects, value in ((context.loss_effects, 0.25), (context.kl_effects, 0.5)):
        assert effects[context.focus] == value
        assert all(math.isnan(e) for i, e in enumerate(effects) if i != context.focus)
    assert reader.contexts(0, {3: 0.25})[0].kl_effects == ()
    assert reader.contexts(1)[0].loss_effects == ()


def test_random_firings_are_measured_ones_where_enough_were_measured():
    firings, windows = small()
    reader = LatentReader(firings, windows, TEXTS, ContextsConfig(n_random=2))
    chosen = at(reader.contexts(0, {0: 0.1, 5: 0.2}), "random")  # of three firings, rows 0, 3 and 5
    assert sorted(c.loss_effects[c.focus] for c in chosen) == [0.1, 0.2]
    few = at(reader.contexts(0, {5: 0.2}), "random")
    assert [c.position for c in few] == [c.position for c in at(reader.contexts(0), "random")]


def test_top_tokens_average_over_silent_occurrences_too():
    firings, windows = small()
    tokens = LatentReader(firings, windows, TEXTS, ContextsConfig(min_count=1)).top_tokens(0)
    assert [(w.token, w.n) for w in tokens] == [("⟨5⟩", 4), ("⟨8⟩", 1)]
    assert [w.value for w in tokens] == [pytest.approx((2 + 4 + 0 + 0) / 4), pytest.approx(1)]
    assert len(LatentReader(firings, windows, TEXTS, ContextsConfig(min_count=2)).top_tokens(0)) == 1


def test_a_dead_latent_has_nothing_to_show():
    firings, windows = small()
    reader = LatentReader(firings, windows, TEXTS)
    assert reader.contexts(2) == ()
    assert reader.histogram(2) is None
    assert reader.top_tokens(2) == ()
    assert reader.n_documents(2) == 0
    assert nearest_by_firing(firings, [2])[2] == ()


def test_the_histogram_counts_every_firing():
    firings, windows = small()
    histogram = LatentReader(firings, windows, TEXTS).histogram(0, bins=4)
    assert histogram is not None
    assert histogram.edges == (0, 1, 2, 3, 4)
    assert histogram.counts == (0, 1, 1, 1)


def test_the_top_prefers_other_documents_and_other_text():
    tokens = np.tile(np.arange(1, 9), (6, 1))
    document = np.array([[0] * 8, [0] * 8, [0] * 8, [1] * 8, [2] * 8, [2] * 8])
    tokens[4:] += 20
    dense = np.zeros((48, 1))
    dense[:, 0] = np.linspace(9, 1, 48)
    firings, windows = firings_of(dense, tokens, document, np.zeros_like(tokens, dtype=bool))
    config = ContextsConfig(before=8, after=8, n_top=2, n_random=0, n_quantile=0, n_near_miss=0)
    top = LatentReader(firings, windows, TEXTS, config).contexts(0)
    assert [c.document for c in top] == ["doc0", "doc2"]  # the copies in windows 1 to 3 are passed over


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.02, 0.9))
def test_any_firings_give_consistent_contexts(seed: int, share: float):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 6, (4, 10))
    document = np.sort(rng.integers(0, 5, 40)).reshape(4, 10)
    special = rng.random((4, 10)) < 0.1
    dense = np.where(rng.random((int((~special).sum()), 2)) < share, rng.random((int((~special).sum()), 2)) + 0.1, 0)
    firings, windows = firings_of(dense, tokens, document, special)
    reader = LatentReader(firings, windows, TEXTS, ContextsConfig(before=4, after=2, n_silent=2))
    for latent in range(2):
        contexts = reader.contexts(latent)
        assert [c.model_dump_json() for c in contexts] == [c.model_dump_json() for c in reader.contexts(latent)]
        n = int((dense[:, latent] > 0).sum())
        assert len(at(contexts, "top")) == min(6, n)
        assert len(at(contexts, "random")) == min(4, n)
        top = [c.activations[c.focus] for c in at(contexts, "top")]
        assert not top or top[0] == pytest.approx(dense[:, latent].max(), rel=1e-6)
        for c in contexts:
            assert len(c.tokens) == len(c.activations) <= 7
            assert (c.activations[c.focus] > 0) == (c.stratum in ("top", "quantile", "random"))


def test_logit_effects_are_the_centred_product_and_ignore_a_shift_of_all_logits():
    generator = torch.Generator().manual_seed(0)
    write, unembedding = torch.randn(5, 4, generator=generator), torch.randn(11, 4, generator=generator)
    effects = write @ unembedding.T
    effects -= effects.mean(1, keepdim=True)
    found = logit_effects(write, unembedding, TEXTS, n=3, chunk=2)
    shifted = logit_effects(write, unembedding + torch.randn(4, generator=generator), TEXTS, n=3)
    for row, (high, low), (high_2, _) in zip(effects, found, shifted, strict=True):
        best = row.argsort(descending=True)
        assert [w.token for w in high] == [f"⟨{i}⟩" for i in best[:3].tolist()]
        assert [w.token for w in low] == [f"⟨{i}⟩" for i in best.flip(0)[:3].tolist()]
        assert high[0].value == pytest.approx(float(row.max()), abs=1e-5)
        assert high_2[0].value == pytest.approx(high[0].value, abs=1e-4)


def test_logit_effects_need_the_residual_streams_width():
    with pytest.raises(ValueError, match="residual stream"):
        logit_effects(torch.ones(2, 3), torch.ones(5, 4), TEXTS)


def test_neighbours_by_writing_ignore_scale_and_themselves():
    write = torch.tensor([[1.0, 0], [5.0, 0.5], [0, 2.0], [0.0, 0.0]])
    near = nearest_by_writing(write, [0, 3], n=2, chunk=1)
    assert [n.latent for n in near[0]] == [1, 2]
    assert near[0][0].value == pytest.approx(5 / math.hypot(5, 0.5), abs=1e-6)
    assert near[3] == ()
    assert [n.latent for n in nearest_by_writing(write, [0], n=50)[0]] == [1, 2]


def test_neighbours_by_firing_are_jaccard():
    firings, _ = small()
    (neighbour,) = nearest_by_firing(firings, [0])[0]
    assert (neighbour.latent, neighbour.value) == (1, pytest.approx(3 / 4))
