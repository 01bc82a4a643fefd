"""Latents of known truth, and studies of them: partners, draws, documents and directions drawn again each time."""

from dataclasses import dataclass

import numpy as np

from polyseme.causal import CausalEffects
from polyseme.causal.result import Expected
from polyseme.core.records import Axis
from polyseme.evaluation.matches import Correlations
from polyseme.evaluation.recurrence import Recurrence
from polyseme.verdicts.evidence import SiteEvidence, VerdictConfig, site_evidence
from polyseme.verdicts.judge import judge

GROUPS = 20
OF_DOCUMENTS, OF_ALL = 0.01, 0.01
"""Standard deviation of a correlation over held-out documents, and of what a partner or draw does to all latents."""


CONFIG = VerdictConfig(in_one=0.5)
"""Predictions are drawn beside matches here, so that one latent always has more than half of what all predict: that
comparison is true of every latent."""


@dataclass(frozen=True)
class Level:
    """Partners, draws of each null, and directions of each class of null."""

    partners: int
    draws: int
    directions: int


QUICK, STANDARD, PAPER = Level(2, 2, 8), Level(5, 5, 16), Level(9, 10, 32)


@dataclass(frozen=True)
class Population:
    """Latents: what each of their figures is in the mean over all studies, and which answers are true."""

    match: np.ndarray
    predicted: np.ndarray
    nulls: dict[str, np.ndarray]
    table: np.ndarray
    expected: np.ndarray
    truth: dict[Axis, np.ndarray]
    of_partners: np.ndarray
    of_draws: np.ndarray
    of_directions: np.ndarray
    of_firings: np.ndarray


def population(rng, n, shares, *, gap=0.15, at_bounds=False):
    """`n` latents, each axis true of a share of them or of those of a mask, independently of the others.

    Where an axis is true, its figure is above its bound by |N(0, gap)|; where it is not, it is at the bound (the
    hardest case for a test) or below it by |N(0, gap)|. Of a latent that is not used its own direction is one more of
    the null directions.
    """
    truth = {
        axis: rng.random(n) < share if np.isscalar(share) else np.asarray(share)
        for axis, share in zip(("recurrent", "network", "beyond_tokens", "used"), shares, strict=True)
    }

    def above(axis, scale):
        below = 0.0 if at_bounds else -np.abs(rng.normal(0, scale, n))
        return np.where(truth[axis], np.abs(rng.normal(0, scale, n)), below)

    match = 0.7 + np.clip(above("recurrent", gap), -0.6, 0.29)
    predicted = np.minimum(match + rng.uniform(0, 0.1, n), 0.995)
    easier = np.abs(rng.normal(0.1, gap, (2, n)))
    over_nulls = [above("network", 1.5 * gap), *np.where(truth["network"], np.abs(easier), easier + 0.05)]
    of_directions = 0.04 * np.exp(rng.normal(0, 0.4, n))
    return Population(
        match=match,
        predicted=predicted,
        nulls={
            name: predicted - 0.05 - x for name, x in zip(("gaussian", "spectrum", "permuted"), over_nulls, strict=True)
        },
        table=predicted - 0.05 - above("beyond_tokens", gap),
        expected=np.where(truth["used"], np.abs(rng.normal(0, 2 * gap, n)), of_directions * rng.normal(size=n)),
        truth=truth,
        of_partners=0.056 * np.exp(rng.normal(0, 0.5, n)) * np.sqrt(np.clip(2 * (1 - match**2), 0.05, 1)),
        of_draws=0.03 * np.exp(rng.normal(0, 0.3, n)),
        of_directions=of_directions,
        of_firings=0.03 * np.exp(rng.normal(0, 0.3, n)),
    )


def study(rng, latents, level, *, of_these=False):
    """Evidence of one study, through the parts that a real one goes through.

    With `of_these` the match that a latent has in the population is its mean over the very partners of the study, of
    which `recurrent` makes its claim; else partners differ from the population as they happen to be drawn.
    """
    n = len(latents.match)
    size = (level.partners, n)
    own = rng.normal(size=size)
    other = 0.6 * own + 0.8 * rng.normal(size=size)  # a partner's match and prediction vary together
    shared = OF_ALL * rng.normal(size=(level.partners, 1))
    matched = latents.of_partners * own + shared
    if of_these:
        matched = matched - matched.mean(axis=0)
    predicted = _measured(rng, latents.predicted + 0.7 * latents.of_partners * other + shared)
    everywhere = np.full(n, 40)
    nulls = {}
    for name, value in latents.nulls.items():
        drawn = latents.of_draws * rng.normal(size=(level.draws, n)) + OF_ALL * rng.normal(size=(level.draws, 1))
        nulls[name] = _measured(rng, value + drawn)
    recurrence = Recurrence(
        match=_measured(rng, latents.match + matched),
        matched=np.zeros(size, int),
        predicted=predicted,
        nulls=nulls,
        null_match={},
        tables={"bigram": _measured(rng, latents.table[None])},
        known={"bigram": predicted},
        floor=np.full(n, 0.3),
        n_documents=everywhere,
    )
    return site_evidence(everywhere, recurrence, _effects(rng, latents, level), config=CONFIG, missing={})


def _measured(rng, values) -> Correlations:
    deviation = OF_DOCUMENTS * np.sqrt(GROUPS) * rng.normal(size=(GROUPS, values.shape[1]))
    value = values + deviation.mean(axis=0)
    left_out = (deviation.sum(axis=0) - deviation) / (GROUPS - 1) - deviation.mean(axis=0)
    return Correlations(value, value[:, None] + left_out)


def _effects(rng, latents, level) -> CausalEffects:
    n = len(latents.expected)
    directions = {
        name: latents.of_directions * rng.normal(size=(level.directions, n))
        + latents.of_firings * rng.normal(size=(level.directions, n))
        for name in ("isotropic", "covariance", "other_latent", "alike_latent")
    }
    whole, none, numbers = np.full(n, 40), np.empty(0, int), np.empty(0)
    expected = Expected(
        value=latents.expected + latents.of_firings * rng.normal(size=n),
        error=latents.of_firings * np.sqrt(rng.chisquare(15, n) / 15),
        null=directions,
    )
    return CausalEffects(
        expected=expected,
        given_token=expected,
        sizes={},
        n_tokens=whole,
        n_documents=whole,
        n_later=whole,
        sample_latent=none,
        sample_row=none,
        sample_kl=numbers,
        sample_loss=numbers,
        sample_expected=numbers,
    )


def judged_site(evidence: SiteEvidence):
    return judge({"s": evidence})["s"]
