"""How far two runs agree on the same latents: the answers and words that are kept, and how alike the sets are."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool

from polyseme.core.errors import InputError
from polyseme.core.records import AXES, DECIDED
from polyseme.core.stats import wilson_interval
from polyseme.core.table import Table
from polyseme.studies.result import StudyResult

EVERYWHERE = "all"
"""The `site` of the rows that are about the latents of all sites."""
STABLE = 0.9
"""A word that is expected in at least this share of repetitions is called stable."""
_UNSAID = ("unknown", "undecided")
_Measure = Literal["kept", "Jaccard", "stable, kept"]
_Row = tuple[str, str, _Measure, int, int, float, float, float, int]
_COLUMNS = ("site", "of", "measure", "one", "other", "share", "low", "high", "n")


@dataclass(frozen=True, repr=False)
class Agreement(Table):
    """How far two runs agree on the latents of dictionaries that both judge. NaN: there are no such latents.

    - `site`: where, or `all`.
    - `of`, `measure`: what agrees. `kept`, of an axis, of `every axis` or of the `word`: the share of latents with the
      same answer in both runs, out of those that either run answers (with `yes` or `no`, or with a word other than
      `undecided`). `Jaccard`, of an axis or of a word: the latents with `yes`, or with that word, in both runs, out of
      those with it in either. `stable, kept`, of a word: the latents that have it in both runs, out of those that have
      it in either and are expected there to keep it in at least 90% of repetitions.
    - `one`, `other`: latents of either run with an answer, with `yes`, or with the word.
    - `share`, with its 95% Wilson interval `low`, `high`, and the `n` latents it is a share of. The interval takes the
      latents for independent: two runs share their luck over latents, so more pairs of runs say more.
    """

    row = "Agreement"

    @property
    def title(self) -> str:
        every = self.rows_where({"site": EVERYWHERE, "of": "word"})
        share, n = float(self.columns["share"][every][0]), int(self.columns["n"][every][0])
        return f"{share:.1%} of {n:,} latents keep their word" if n else "no latent has a word in either run"


def agreement(one: StudyResult, other: StudyResult) -> Agreement:
    """Two runs of one study, latent by latent, at the sites where they judge the same dictionary.

    Runs judge the same dictionary where the first of `seeds` and what it is trained on are the same; everything else
    may be drawn again: the other `seeds`, the `seed` of every control, `draw_seed`.

    Raises:
        InputError: there is no site where they judge the same dictionary.
    """
    sites = [site for site in one.sites if site in other.sites and _same_dictionary(one, other, site)]
    if not sites:
        raise InputError(
            "the studies judge no dictionary that is the same, so their latents are not the same either",
            where=f"{one.run.id} and {other.run.id}",
            fix="give studies of the same network, corpus, tokens, training and first seed; Comparison.latents matches "
            "the latents of others",
        )
    rows = [*_rows(one, other, EVERYWHERE, sites), *(row for site in sites for row in _rows(one, other, site, [site]))]
    return Agreement(
        {
            name: np.array([row[i] for row in rows], dtype=object if isinstance(rows[0][i], str) else None)
            for i, name in enumerate(_COLUMNS)
        }
    )


def _same_dictionary(one: StudyResult, other: StudyResult, site: str) -> bool:
    first, second = (study.dictionary(site).tensors() for study in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(tensor.cpu(), second[name].cpu()) for name, tensor in first.items()
    )


def _rows(one: StudyResult, other: StudyResult, where: str, sites: Sequence[str]) -> Iterator[_Row]:
    def column(name: str) -> tuple[np.ndarray, np.ndarray]:
        first, second = (np.concatenate([study.latents(site)[name] for site in sites]) for study in (one, other))
        return first, second

    answers = {axis: column(axis) for axis in AXES}
    for axis, (first, second) in answers.items():
        yield _kept(where, axis, [(first, second)])
        yield _jaccard(where, axis, first == "yes", second == "yes")
    yield _kept(where, "every axis", list(answers.values()))
    words, expected = column("status"), column("frequency")
    yield _kept(where, "word", [words])
    for word in DECIDED:
        first, second = has = [said == word for said in words]
        yield _jaccard(where, word, first, second)
        stable = [mine & (often >= STABLE) for mine, often in zip(has, expected, strict=True)]
        yield _row(where, word, "stable, kept", stable, stable[0] | stable[1], first & second)


def _kept(site: str, of: str, answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> _Row:
    said = [np.any([~np.isin(pair[side], _UNSAID) for pair in answers], axis=0) for side in (0, 1)]
    same = np.all([first == second for first, second in answers], axis=0)
    return _row(site, of, "kept", said, said[0] | said[1], same)


def _jaccard(site: str, of: str, first: Bool[np.ndarray, " latent"], second: Bool[np.ndarray, " latent"]) -> _Row:
    return _row(site, of, "Jaccard", [first, second], first | second, first & second)


def _row(
    site: str,
    of: str,
    measure: _Measure,
    sides: Sequence[Bool[np.ndarray, " latent"]],
    asked: Bool[np.ndarray, " latent"],
    agreed: Bool[np.ndarray, " latent"],
) -> _Row:
    n, k = int(asked.sum()), int((asked & agreed).sum())
    interval, share = wilson_interval(k, n), k / n if n else math.nan
    return site, of, measure, int(sides[0].sum()), int(sides[1].sum()), share, interval.low, interval.high, n
