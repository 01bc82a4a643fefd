"""Which word follows from a profile."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from polyseme.core.records import Axis, Status

CHAIN: tuple[tuple[Axis, Status], ...] = (
    ("recurrent", "not_recurrent"),
    ("network", "not_beyond_nulls"),
    ("used", "use_not_shown"),
    ("beyond_tokens", "token_level"),
)
"""The axes in the order in which they decide, each with the word of a latent of which it is the first to say `no`.

The word of a latent of which all say `yes` is `network_feature`; where an axis says `unknown` before any says `no`, it
is `undecided`. So a word claims every axis before the one that decides it.
"""


def words(
    answers: Mapping[Axis, Shaped[np.ndarray, " latent"]],
) -> tuple[Shaped[np.ndarray, " latent"], Shaped[np.ndarray, " latent"]]:
    """(word, axis that decides it) of each latent by the table of `CHAIN`; the axis is empty where all say `yes`."""
    n = len(next(iter(answers.values())))
    status, decisive = np.full(n, "network_feature", dtype=object), np.full(n, "", dtype=object)
    for axis, word in reversed(CHAIN):
        stops = answers[axis] != "yes"
        status[stops] = np.where(answers[axis][stops] == "no", word, "undecided")
        decisive[stops] = axis
    return status, decisive
