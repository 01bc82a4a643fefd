"""Which word follows from a profile."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float

from polyseme.core.records import AXES, STATUSES, Answer, Axis, Status

RULES: tuple[tuple[Axis, Answer, Status], ...] = (
    ("recurrent", "unknown", "undecided"),
    ("recurrent", "no", "not_recurrent"),
    ("network", "unknown", "undecided"),
    ("network", "no", "not_beyond_nulls"),
    ("used", "unknown", "undecided"),
    ("used", "no", "use_not_shown"),
    ("beyond_tokens", "unknown", "undecided"),
    ("beyond_tokens", "no", "token_level"),
)
"""The first line whose answer is given decides; a latent that none decides has `yes` on every axis."""


def deciding(answers: Mapping[Axis, Answer]) -> tuple[Axis | None, Status]:
    """The word of a profile, and the axis that decides it; None where every axis says `yes`."""
    return next(
        ((axis, status) for axis, answer, status in RULES if answers[axis] == answer), (None, "network_feature")
    )


def word_frequencies(
    yes: Mapping[Axis, Float[np.ndarray, " latent"]], unknown: Mapping[Axis, Sequence[bool] | np.ndarray]
) -> dict[Status, Float[np.ndarray, " latent"]]:
    """How often each word comes out, where each axis says `yes` with a known frequency, independently of the others.

    Args:
        yes: by axis, how often it says `yes`.
        unknown: by axis, where it says `unknown` whatever is drawn.
    """
    n = len(next(iter(yes.values())))
    found: dict[Status, Float[np.ndarray, " latent"]] = {status: np.zeros(n) for status in STATUSES}
    options: tuple[Answer, ...] = ("yes", "no", "unknown")
    for combination in product(options, repeat=len(AXES)):
        share = np.ones(n)
        for axis, answer in zip(AXES, combination, strict=True):
            silent = np.asarray(unknown[axis], dtype=bool)
            of_answer = {"unknown": silent.astype(float), "yes": ~silent * yes[axis], "no": ~silent * (1 - yes[axis])}
            share = share * np.where(silent & (answer != "unknown"), 0.0, of_answer[answer])
        found[deciding(dict(zip(AXES, combination, strict=True)))[1]] += np.nan_to_num(share)
    return found
