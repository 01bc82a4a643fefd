"""Matches and predictions of latents: closed forms, invariances, planted truths and attacks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core.errors import InputError
from polyseme.evaluation.matches import Cells, Sides
from polyseme.evaluation.recurrence import Recurrence, RecurrenceConfig, recurrence
from polyseme.store import Store
from tests.evaluation.firing import fired, text, zipfian


def sparse(rng, n, m, density=0.2):
    return (rng.random((n, m)) < density) * rng.exponential(1.0, (n, m))


class Corpus:
    """Train and held-out windows, and dictionaries whose activations are functions of the tokens of either."""

    def __init__(self, seed=0, learn=100, heldout=120, context=20, vocabulary=50):
        self.rng = np.random.default_rng(seed)
        sizes = (learn, heldout)
        self.windows = tuple(text(zipfian(self.rng, n, context, vocabulary)) for n in sizes)
        self.n = tuple(w.tokens.size for w in self.windows)

    def sides(self, learn, heldout):
        return Sides(*(fired(w, a) for w, a in zip(self.windows, (learn, heldout), strict=True)))

    def both(self, make):
        """A dictionary whose activations `make` gives for the tokens of one side."""
        return self.sides(*(make(w) for w in self.windows))

    def noise(self, m=4):
        return self.sides(*(sparse(self.rng, n, m) for n in self.n))

    def measure(self, judged, partners, nulls=None, random=None, **more):
        return recurrence(judged, partners, nulls or {}, random or self.noise(), self.windows, **more)


def dense(side):
    return side.matrix.toarray().astype(np.float64)


def standardised(x):
    x = x - x.mean(0)
    return x / np.linalg.norm(x, axis=0)


def predicted(learn, heldout, goal, ridge):
    """What the best linear prediction of `goal` from `learn` gives on the held-out side, in plain numpy."""
    z = standardised(learn)
    w = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ standardised(goal))
    return (heldout - learn.mean(0)) @ (w / np.linalg.norm(learn - learn.mean(0), axis=0)[:, None])


def correlations(x, y):
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, y.T, strict=True)])


def added(corpus, sides, noise, size=1.0):
    """Another dictionary, whose latents are those of one with noise added."""
    return corpus.sides(
        *(dense(a) + size * dense(b) for a, b in ((sides.learn, noise.learn), (sides.heldout, noise.heldout)))
    )


def beside(corpus, left, right):
    """The latents of two dictionaries as one."""
    return corpus.sides(
        *(np.hstack([dense(a), dense(b)]) for a, b in ((left.learn, right.learn), (left.heldout, right.heldout)))
    )


def test_a_latent_planted_in_a_partner_is_found_there_with_its_own_correlation():
    corpus = Corpus()
    judged = corpus.noise(3)
    blurred = added(corpus, judged, corpus.noise(3))
    found = corpus.measure(judged, [beside(corpus, corpus.noise(5), blurred), judged])
    assert found.matched.tolist() == [[5, 6, 7], [0, 1, 2]]
    expected = correlations(dense(judged.heldout), dense(blurred.heldout))
    np.testing.assert_allclose(found.match.value[0], expected, atol=1e-6)
    np.testing.assert_allclose(found.match.value[1], 1, atol=1e-6)
    assert found.n_documents.tolist() == [60] * 3


def test_predictions_are_those_of_ridge_regression_and_of_least_squares_in_the_limit():
    corpus = Corpus(1)
    hidden = [sparse(corpus.rng, n, 6) for n in corpus.n]
    mixing = corpus.rng.standard_normal((6, 4))
    judged = corpus.sides(*(np.maximum(h @ mixing + 0.3 * corpus.rng.standard_normal((len(h), 4)), 0) for h in hidden))
    partner = corpus.sides(*hidden)
    goal, learn, heldout = dense(judged.learn), dense(partner.learn), dense(partner.heldout)
    for ridge in (3.0, 0.003, 1e-6):
        found = corpus.measure(judged, [partner], {"null": [partner]}, config=RecurrenceConfig(ridge=ridge))
        expected = correlations(dense(judged.heldout), predicted(learn, heldout, goal, ridge))
        np.testing.assert_allclose(found.predicted.value[0], expected, atol=2e-5)
        np.testing.assert_array_equal(found.nulls["null"].value, found.predicted.value)
    w, *_ = np.linalg.lstsq(np.hstack([learn, np.ones((len(learn), 1))]), goal, rcond=None)
    np.testing.assert_allclose(
        found.predicted.value[0], correlations(dense(judged.heldout), heldout @ w[:-1]), atol=2e-5
    )


def test_without_a_group_is_the_correlation_at_the_other_documents():
    corpus = Corpus(2)
    judged = corpus.noise(3)
    partner = added(corpus, judged, corpus.noise(3))
    found = corpus.measure(judged, [partner], config=RecurrenceConfig(n_groups=60))
    x, document = dense(judged.heldout), judged.heldout.document
    for of, y in (
        (found.match, dense(partner.heldout)),
        (
            found.predicted,
            predicted(dense(partner.learn), dense(partner.heldout), dense(judged.learn), RecurrenceConfig().ridge),
        ),
    ):
        by_document = [correlations(x[document != d], y[document != d]) for d in range(60)]
        # Which group holds which document is drawn: compared as sets.
        np.testing.assert_allclose(np.sort(of.without[0], axis=0), np.sort(by_document, axis=0), atol=2e-5)


def test_groups_hold_all_documents_in_about_equal_number():
    corpus = Corpus(3, heldout=90)
    firings = corpus.noise(1).heldout
    rows = corpus.rng.random(firings.n_tokens) < 0.3
    cells = Cells.of(firings, {"all": np.ones_like(rows), "some": rows}, 20, seed=1)
    group = np.empty(firings.n_tokens, int)
    group[cells.order] = np.repeat(cells.group, cells.lengths)
    documents = [set(firings.document[group == g]) for g in range(20)]
    assert sorted(d for some in documents for d in some) == list(range(45))
    assert {len(some) for some in documents} == {2, 3}
    ones = cells.lengths.astype(float)
    assert cells.totals(ones, "some")[0] == rows.sum()
    np.testing.assert_array_equal(cells.totals(ones, "some")[1:], [rows[group != g].sum() for g in range(20)])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 20))
def test_neither_order_nor_scale_nor_chunks_matter(seed, scale):
    corpus = Corpus(seed, learn=60, heldout=60)
    judged = corpus.noise(5)
    partners = [added(corpus, judged, corpus.noise(5), noise) for noise in (0.5, 1.0)]
    null = added(corpus, judged, corpus.noise(5), 2.0)
    order, columns = corpus.rng.permutation(5), corpus.rng.permutation(5)

    def changed(sides, latents, by=1.0):
        return Sides(
            *(
                fired(w, by * dense(s)[:, latents])
                for w, s in zip(corpus.windows, (sides.learn, sides.heldout), strict=True)
            )
        )

    random = corpus.noise(7)
    first = corpus.measure(judged, partners, {"null": [null, judged]}, random)
    second = corpus.measure(
        changed(judged, order, scale),
        [changed(partners[1], columns, scale), partners[0]],
        {"null": [changed(judged, columns), changed(null, columns, 1 / scale)]},
        changed(random, corpus.rng.permutation(7), scale),
        config=RecurrenceConfig(chunk_bytes=1),
    )
    for axis in ("recurrent", "network", "beyond_tokens"):
        one, other = (getattr(found, axis)(*([0.7, 0.75] if axis == "recurrent" else [])) for found in (first, second))
        assert one.keys() == other.keys()
        for name, contrast in one.items():
            for field in ("value", "null", "error", "freedom"):
                np.testing.assert_allclose(
                    getattr(contrast, field)[order], getattr(other[name], field), rtol=2e-2, atol=2e-4, err_msg=field
                )
    np.testing.assert_array_equal(first.n_documents[order], second.n_documents)


def test_a_function_of_a_table_has_no_margin_and_one_of_distant_context_has():
    corpus = Corpus(4, learn=400, heldout=400, vocabulary=30)
    rng = corpus.rng
    of_token, of_previous = sparse(rng, 1, 30, 0.3)[0], sparse(rng, 1, 30, 0.3)[0]
    of_bigram, of_position = sparse(rng, 30, 30, 0.3), np.arange(20) < 4

    def latents(windows):
        tokens = windows.tokens
        previous = np.where(np.arange(20) > 0, np.roll(tokens, 1, axis=1), 29)
        distant = np.roll(tokens, 5, axis=1) * (np.arange(20) >= 5)
        parts = (
            of_token[tokens],
            of_previous[previous],
            of_bigram[tokens, previous],
            np.broadcast_to(of_position, tokens.shape),
            of_token[distant],
        )
        return np.stack([np.reshape(part, -1) for part in parts], axis=1) * 1.0

    judged = corpus.both(latents)
    partners = [added(corpus, judged, corpus.noise(5), noise) for noise in (0.02, 0.03, 0.04)]
    found = corpus.measure(judged, partners)
    margins = {name: contrast.difference for name, contrast in found.beyond_tokens().items()}
    for latent, name in enumerate(("token table", "previous token table", "bigram table", "position table")):
        assert margins[name][latent] < 0.02
        assert found.tables[name.removesuffix(" table")].value[0, latent] > 0.97
    assert all(margin[4] > 0.8 for margin in margins.values())
    assert margins["bigram table"][0] < 0.02
    assert min(margins[name][2] for name in ("token table", "previous token table", "position table")) > 0.1


def test_a_function_of_rare_tokens_is_not_beyond_tokens_though_partners_read_it_where_the_table_cannot_know_it():
    corpus = Corpus(5, learn=300, heldout=1000, vocabulary=5000)
    of_token = sparse(corpus.rng, 5000, 40, 0.1)
    judged = corpus.both(lambda windows: of_token[windows.tokens.reshape(-1)])
    partners = [added(corpus, judged, corpus.noise(40), 0.1) for _ in range(3)]
    found = corpus.measure(judged, partners)
    everywhere = np.stack([np.nanmean(found.predicted.value, axis=0), np.nanmean(found.known["token"].value, axis=0)])
    assert np.nanmedian(everywhere) > 0.95
    contrast = found.beyond_tokens()["token table"]
    assert np.nanmax(contrast.difference) < 0.05
    assert np.nanmean(contrast.p(0.05) < 0.05) == 0


def test_random_directions_are_not_called_recurrent_and_their_own_floor_is_their_95th_percentile():
    rng = np.random.default_rng(6)
    corpus = Corpus(6, learn=300, heldout=300)
    # Dictionaries and random latents all read a space of few dimensions, so that chance gives matches.
    vectors = [rng.standard_normal((n, 12)) * np.linspace(2, 0.5, 12) for n in corpus.n]

    def reading(m, density):
        directions = rng.standard_normal((12, m)) * np.linspace(2, 0.5, 12)[:, None]
        bounds = (
            np.quantile(vectors[0] @ directions, 1 - density, axis=0).diagonal()
            if np.ndim(density)
            else np.quantile(vectors[0] @ directions, 1 - density, axis=0)
        )
        return corpus.sides(*(np.maximum(v @ directions - bounds, 0) for v in vectors))

    judged, random = reading(400, 0.05), reading(400, 0.05)
    found = corpus.measure(judged, [reading(300, 0.05) for _ in range(3)], {}, random)
    contrast = found.recurrent(0.0, 0.75)["random directions"]
    above = contrast.value > contrast.null
    assert 0.01 < above.mean() < 0.10
    assert (contrast.p() < 0.05).mean() <= 0.05
    assert found.floor.min() > 0.3


def test_a_sum_of_two_latents_and_a_half_of_one_are_not_recurrent_where_the_latent_is():
    """They match one latent of the partners by more than 0.7, and several explain far more of them."""
    corpus = Corpus(14, learn=300, heldout=300)
    one, two = corpus.noise(1), corpus.noise(1)
    total = added(corpus, one, two, 0.9)
    half = corpus.sides(
        *(
            dense(side) * (corpus.rng.random((n, 1)) < 0.6)
            for side, n in zip((one.learn, one.heldout), corpus.n, strict=True)
        )
    )
    rest = corpus.sides(*(dense(a) - dense(b) for a, b in ((one.learn, half.learn), (one.heldout, half.heldout))))
    judged = beside(corpus, beside(corpus, one, total), beside(corpus, half, corpus.noise(1)))
    whole = beside(corpus, beside(corpus, one, two), corpus.noise(6))
    halves = beside(corpus, beside(corpus, half, rest), beside(corpus, two, corpus.noise(6)))
    found = corpus.measure(judged, [added(corpus, p, corpus.noise(p.learn.n_latents), 0.1) for p in (whole, whole)])
    together = found.recurrent(0.7, 0.75)["several latents together"]
    assert found.match.value[:, 1].min() > 0.7
    assert together.p()[0] < 1e-6
    assert together.p()[1] > 0.99
    split = corpus.measure(judged, [halves, halves])  # the latent itself is two in these partners
    assert split.match.value[:, 0].min() > 0.7
    assert split.recurrent(0.7, 0.75)["several latents together"].p()[0] > 0.99
    for latent in range(4):
        value = found.match.value[:, latent].mean() - np.sqrt(0.75) * found.predicted.value[:, latent].mean()
        assert together.difference[latent] == pytest.approx(value, abs=1e-6)
    assert (found.recurrent(0.7, 0.0)["several latents together"].null == 0).all()


def test_partners_and_nulls_of_one_distribution_have_no_margin():
    corpus = Corpus(7, learn=300, heldout=300)
    judged = corpus.noise(200)
    others = [added(corpus, judged, corpus.noise(200), 1.0) for _ in range(8)]
    found = corpus.measure(judged, others[:4], {"null": others[4:]})
    contrast = found.network()["null"]
    assert (contrast.p() < 0.05).mean() <= 0.09
    assert (contrast.p(0.05) < 0.05).mean() == 0


def test_what_was_found_is_read_again_as_it_was_written(tmp_path):
    corpus = Corpus(8)
    judged = corpus.noise(3)
    found = corpus.measure(judged, [corpus.noise(4), judged], {"net": [judged], "text": [judged]}, of_text=("text",))
    assert list(found.network()) == ["net"]
    assert all(name.endswith("table") for name in found.beyond_tokens())  # null texts are shown, and decide nothing
    _, read = Store(tmp_path).stage("recurrence", {}, {}, found.save, Recurrence.load)
    axes = [(one.network(), one.beyond_tokens(), one.recurrent(0.7, 0.75)) for one in (found, read)]
    for written, again in zip(*axes, strict=True):
        for name, contrast in written.items():
            for field, array in vars(contrast).items():
                np.testing.assert_array_equal(array, getattr(again[name], field))
    np.testing.assert_array_equal(found.null_match["text"], read.null_match["text"])
    np.testing.assert_array_equal(found.matched, read.matched)


def test_latents_that_do_not_fire_are_not_measured_and_silent_partners_match_nothing():
    corpus = Corpus(9)
    judged = corpus.sides(*(np.hstack([sparse(corpus.rng, n, 1), np.zeros((n, 1))]) for n in corpus.n))
    silent = corpus.sides(*(np.zeros((n, 3)) for n in corpus.n))
    found = corpus.measure(judged, [silent, judged], {"null": [silent]})
    assert found.match.value[:, 0].tolist() == pytest.approx([0, 1])
    assert found.predicted.value[:, 0].tolist() == pytest.approx([0, 1], abs=1e-5)
    assert found.matched.tolist() == [[-1, -1], [0, -1]]
    assert np.isnan(found.match.value[:, 1]).all()
    assert np.isnan(found.floor[1])
    assert found.n_documents.tolist() == [60, 0]


def test_other_tokens_no_partner_and_a_single_document_are_refused():
    corpus, other = Corpus(10), Corpus(11, heldout=119)
    with pytest.raises(InputError, match="same tokens"):
        corpus.measure(corpus.noise(), [other.noise()])
    with pytest.raises(InputError, match="same tokens"):
        corpus.measure(corpus.noise(), [corpus.noise()], {"null": [other.noise()]})
    with pytest.raises(InputError, match="same tokens"):
        corpus.measure(corpus.noise(), [corpus.noise()], random=other.noise())
    with pytest.raises(InputError, match="another seed"):
        corpus.measure(corpus.noise(), [])
    alone = Corpus(12, heldout=2)
    with pytest.raises(InputError, match="two held-out documents"):
        alone.measure(alone.noise(), [alone.noise()])


def test_the_floor_of_a_latent_is_that_of_random_latents_as_dense_as_it_is():
    rng = np.random.default_rng(13)
    corpus = Corpus(13, learn=400, heldout=400)
    vectors = [rng.standard_normal((n, 10)) for n in corpus.n]

    def reading(densities):
        directions = rng.standard_normal((10, len(densities)))
        heights = np.sort(vectors[0] @ directions, axis=0)
        bounds = heights[np.rint((1 - densities) * (len(heights) - 1)).astype(int), np.arange(len(densities))]
        return corpus.sides(*(np.maximum(v @ directions - bounds, 0) for v in vectors))

    # Few are dense, and denser ones match better.
    densities = rng.permutation(np.minimum(0.01 * (1 + rng.pareto(2.0, 600)), 0.4))
    partners = [reading(np.geomspace(0.01, 0.4, 60)) for _ in range(2)]
    found = corpus.measure(reading(densities), partners, {}, reading(np.geomspace(0.01, 0.8, 600)))
    contrast = found.recurrent(0.0, 0.75)["random directions"]
    dense_ones = densities > np.quantile(densities, 0.95)
    assert found.floor[dense_ones].mean() > found.floor[~dense_ones].mean() + 0.05
    assert (contrast.value > contrast.null)[dense_ones].mean() < 0.15
    assert (contrast.value > contrast.null).mean() < 0.10
