"""Learning curves of recurrence: whether more training tokens would change how many latents recur.

Dictionaries of several seeds are compared with each other at several moments of one training. The moments lie on the
plateau of the learning rate, and each has twice the tokens of the one before, so that two of them differ in the length
of the training alone (`docs/decisions/0036-learning-curves.md`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter

from polyseme.core.contrast import combined
from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation.finishes import jackknife_error
from polyseme.evaluation.matches import Cells, Correlations, Judged, Other, Sides
from polyseme.evaluation.metrics import METRICS
from polyseme.store import Artifact, save_array, save_json

Outcome = Literal["rising", "falling", "open", "flat"]
LEAST_CHANGE = 0.02
"""A change of a share of latents, or of a mean correlation, that is shown to be smaller than this counts as none."""
_N_GROUPS = 20
"""Groups of held-out documents, each of which is left out once for the errors (jackknife)."""
_CHUNK_BYTES = 100 * 2**20
_PARSE = TypeAdapter(tuple[int, ...])


@dataclass(frozen=True)
class LearningCurve:
    """The best matches of the latents of one site at several moments of the training.

    Attributes:
        tokens: of each moment, about twice those of the one before; empty where no copies were kept.
        match: correlation on held-out text of every latent of each dictionary with its best match in each other
            dictionary of the same moment, which is chosen on train text; NaN for a latent that does not vary. Pairs are
            those of `itertools.permutations`.
        without: the same with each group of documents left out.
        bar: a latent recurs where its match is above it.
    """

    tokens: tuple[int, ...]
    match: Float[np.ndarray, "moment pair latent"]
    without: Float[np.ndarray, "moment pair group latent"]
    bar: float

    def records(self, scope: Mapping[str, str | int]) -> Iterator[MetricRecord]:
        """At each moment the share of latents that recur and the mean match, and what both changed by in the end.

        Both are means over ordered pairs of dictionaries and over all latents of the first; one that does not vary
        matches nothing. `details` of a change has what it says (`outcome_of`).
        """
        if self.tokens:
            yield from self._records("recurring", (self.match > self.bar, self.without > self.bar), scope)
            yield from self._records("recurring_match", (np.nan_to_num(self.match), np.nan_to_num(self.without)), scope)

    def _records(
        self, name: str, of_latents: tuple[np.ndarray, np.ndarray], scope: Mapping[str, str | int]
    ) -> Iterator[MetricRecord]:
        by_pair, without = (each.mean(axis=-1, dtype=np.float64) for each in of_latents)
        n = self.match.shape[-1]
        for i, n_tokens in enumerate(self.tokens):
            value, interval = estimate(by_pair[i], without[i])
            interval = interval.model_copy(update={"low": max(0.0, interval.low), "high": min(1.0, interval.high)})
            yield METRICS[name].record(value, interval, n=n, n_unit="latents", scope={**scope, "tokens": n_tokens})
        value, interval = estimate(by_pair[-1] - by_pair[-2], without[-1] - without[-2])
        details = {"outcome": outcome_of(interval), "from": self.tokens[-2], "to": self.tokens[-1]}
        change = METRICS[f"{name}_change"]
        yield change.record(value, interval, n=n, n_unit="latents", scope=scope, details=details)

    def save(self, folder: Path, stem: str) -> None:
        """Write `<stem>.*` into `folder`."""
        save_json(folder / f"{stem}.tokens.json", self.tokens)
        save_array(folder / f"{stem}.match.npy", self.match)
        save_array(folder / f"{stem}.without.npy", self.without)

    @classmethod
    def load(cls, artifact: Artifact, stem: str, *, bar: float) -> "LearningCurve":
        """Read what `save` wrote.

        Raises:
            DamagedArtifact: a file is missing, or not what `save` writes.
        """
        tokens = artifact.parsed(f"{stem}.tokens.json", _PARSE.validate_python)
        return cls(tokens, artifact.array(f"{stem}.match.npy"), artifact.array(f"{stem}.without.npy"), bar)


def outcome_of(change: Interval) -> Outcome:
    """What the 95% interval of a change over the last doubling says.

    `flat` where it lies within ±`LEAST_CHANGE`; else `rising` or `falling` where it lies beside 0; else `open`: more
    seeds or held-out tokens would tell.
    """
    if change.low >= -LEAST_CHANGE and change.high <= LEAST_CHANGE:
        return "flat"
    return "rising" if change.low > 0 else "falling" if change.high < 0 else "open"


def estimate(by_pair: Float[np.ndarray, " pair"], without: Float[np.ndarray, "pair group"]) -> tuple[float, Interval]:
    """The mean over ordered pairs of dictionaries, with its 95% interval.

    Its errors, by jackknife, are over seeds, each left out with all its pairs, and over groups of held-out documents.
    They are independent, and are added as Student's t (`core.contrast.combined`).

    Args:
        by_pair: in the order of `itertools.permutations`.
        without: the same with each group of documents left out.
    """
    from scipy.special import stdtrit

    n = (1 + math.isqrt(1 + 4 * len(by_pair))) // 2
    pairs = list(permutations(range(n), 2))
    of_seeds = np.array([by_pair[[seed not in pair for pair in pairs]].mean() for seed in range(n)])
    error, freedom = combined(
        *(
            (jackknife_error(left_out[:, None]) ** 2, np.array([len(left_out) - 1.0]))
            for left_out in (of_seeds, without.mean(axis=0))
        )
    )
    value, half = float(by_pair.mean()), float(stdtrit(freedom, 0.975)[0] * error[0]) if error[0] else 0.0
    return value, Interval(low=value - half, high=value + half, method="t over seeds and documents (jackknife)")


def matches_of(sides: Sequence[Sides], *, seed: int = 0) -> Correlations:
    """The best match of every latent of each dictionary in each other one, by ordered pair (`itertools.permutations`).

    Args:
        sides: the firings of dictionaries of three seeds or more, all of one moment, on the same tokens.
        seed: of the groups of documents.

    Raises:
        InputError: there are fewer than three dictionaries or two held-out documents.
    """
    if len(sides) < 3:
        raise InputError("the spread over seeds needs three dictionaries", fix="train three seeds or more")
    heldout = sides[0].heldout
    cells = Cells.of(heldout, {"all": np.ones(heldout.n_tokens, dtype=bool)}, _N_GROUPS, seed)
    judged = [Judged(one, cells, _CHUNK_BYTES) for one in sides]
    others = [Other(one, _CHUNK_BYTES) for one in sides]
    pairs = permutations(range(len(sides)), 2)
    return Correlations.joined([others[b].match(judged[a], others[b].correlations(judged[a]))[0] for a, b in pairs])
