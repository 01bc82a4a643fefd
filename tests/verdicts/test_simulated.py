"""The whole judge on latents of known truth: false answers, false words, and how often answers come out again."""

import numpy as np
import pytest

from polyseme.core.records import AXES
from tests.verdicts.simulated import PAPER, QUICK, STANDARD, judged_site, population, study

pytestmark = pytest.mark.slow

HALF = np.arange(600) < 300


def shares_of_false(shares, level, *, repeats=20, n=600, **kind):
    """(false share of the yes of each axis, of the network features, of latents whose axes all say yes), power."""
    axes, words, alone, power = {axis: [] for axis in AXES}, [], [], []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        latents = population(rng, n, shares, **kind)
        found = judged_site(study(rng, latents, level, of_these=True))
        true = np.all(list(latents.truth.values()), axis=0)
        for axis in AXES:
            yes = found.outcomes[axis].yes
            axes[axis].append((yes & ~latents.truth[axis]).sum() / max(1, yes.sum()))
        every = np.all([found.outcomes[axis].yes for axis in AXES], axis=0)
        feature = found.status == "network_feature"
        words.append((feature & ~true).sum() / max(1, feature.sum()))
        alone.append((every & ~true).sum() / max(1, every.sum()))
        power.append((feature & true).sum() / max(1, true.sum()))
    return {axis: np.mean(x) for axis, x in axes.items()}, np.mean(words), np.mean(alone), np.mean(power)


@pytest.mark.parametrize("level", [QUICK, STANDARD, PAPER])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_false_answers_and_false_words_where_every_other_figure_is_at_its_bound(level, share):
    axes, word, _, _ = shares_of_false((share,) * 4, level, at_bounds=True, gap=0.3)
    assert all(false < 0.08 for false in axes.values()), axes
    assert word < 0.06


@pytest.mark.parametrize("level", [QUICK, STANDARD])
def test_where_nothing_is_true_nothing_is_a_feature(level):
    axes, word, alone, _ = shares_of_false((0, 0, 0, 0), level, at_bounds=True)
    # Any yes is false there, so that the share is how often there is one.
    assert all(false <= 0.2 for false in axes.values()), axes
    assert word == alone == 0


def test_latents_that_pass_different_axes_are_no_features_where_axis_by_axis_all_are_false():
    _, word, alone, _ = shares_of_false((HALF, ~HALF, 0.9, 0.9), STANDARD, at_bounds=True, gap=0.3)
    assert alone > 0.5
    assert word < 0.15


def test_what_the_correction_of_words_costs():
    _, word, alone, power = shares_of_false((0.6, 0.6, 0.2, 0.5), STANDARD, at_bounds=True, gap=0.3)
    assert word < 0.05 < alone
    assert power > 0.1


def pairs(level, *, repeats=4, n=800):
    """Expected frequencies of a study, and what a second study of the same latents says."""
    axes, words = {axis: ([], []) for axis in AXES}, ([], [])
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        latents = population(rng, n, (0.6, 0.6, 0.3, 0.4))
        first, second = (judged_site(study(rng, latents, level)) for _ in range(2))
        for axis in AXES:
            axes[axis][0].append(first.outcomes[axis].frequency)
            axes[axis][1].append(second.outcomes[axis].yes)
        words[0].append(first.frequency)
        words[1].append(first.status == second.status)
    return {axis: tuple(map(np.concatenate, x)) for axis, x in axes.items()}, tuple(map(np.concatenate, words))


@pytest.mark.parametrize("level", [STANDARD, PAPER])
def test_a_second_study_says_what_the_first_expects(level):
    axes, (expected, same) = pairs(level)
    for axis, (frequency, yes) in axes.items():
        for low, high in ((0, 0.1), (0.1, 0.35), (0.35, 0.65), (0.65, 0.9), (0.9, 1.01)):
            mine = (frequency >= low) & (frequency < high)
            assert frequency[mine].mean() == pytest.approx(yes[mine].mean(), abs=0.15), (axis, low)
        known = np.isfinite(frequency)
        assert frequency[known].mean() == pytest.approx(yes[known].mean(), abs=0.03)
    # Axes that share their partners agree more often than independent ones, and a word rests on the worst of several.
    assert 0 < expected.mean() - same.mean() < 0.08


def test_with_two_partners_the_axes_that_have_power_are_expected_as_often_as_they_come():
    axes, _ = pairs(QUICK)
    for axis in ("recurrent", "beyond_tokens", "used"):
        frequency, yes = axes[axis]
        known = np.isfinite(frequency)
        assert frequency[known].mean() == pytest.approx(yes[known].mean(), abs=0.06)


def test_the_interval_of_a_frequency_holds_the_share_of_repetitions():
    rng = np.random.default_rng(0)
    latents = population(rng, 300, (0.6, 0.6, 0.3, 0.4))
    studies = [judged_site(study(rng, latents, STANDARD)) for _ in range(30)]
    for axis in AXES:
        share = np.mean([found.outcomes[axis].yes for found in studies], axis=0)
        slack = 2 * np.sqrt(share * (1 - share) / len(studies)) + 0.01
        held = []
        for found in studies[:5]:
            frequency = found.outcomes[axis].frequencies
            known = np.isfinite(frequency.low)
            held.append(((frequency.low - slack <= share) & (share <= frequency.high + slack))[known].mean())
            assert (frequency.low[known] <= frequency.expected[known] + 1e-6).all()
            assert (frequency.expected[known] <= frequency.high[known] + 1e-6).all()
        assert np.mean(held) > 0.95


def test_more_partners_show_more():
    powers = [shares_of_false((0.6,) * 4, level, repeats=6)[3] for level in (QUICK, STANDARD, PAPER)]
    assert powers[0] < powers[1] < powers[2]
