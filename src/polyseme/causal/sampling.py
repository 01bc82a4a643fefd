"""Which firing tokens of each latent are intervened on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from polyseme.activations.firings import Firings
from polyseme.corpora.pack import Windows


@dataclass(frozen=True)
class Samples:
    """Firing tokens drawn for causal tests, in latent order.

    Attributes:
        latent: whose firing it is.
        row: its row in `Firings` (so `firings.document[row]`, `firings.position[row]` …).
        value: the latent's activation there.
    """

    latent: Int[np.ndarray, " sample"]
    row: Int[np.ndarray, " sample"]
    value: Float[np.ndarray, " sample"]

    def __len__(self) -> int:
        return len(self.latent)


def has_target(firings: Firings, windows: Windows) -> Bool[np.ndarray, " token"]:
    """Tokens whose next token in the window exists and is not special: only there is there a prediction to score."""
    followed = np.zeros_like(windows.special)
    followed[:, :-1] = ~windows.special[:, 1:]
    return followed[firings.window, firings.position]


def sample_firings(
    firings: Firings,
    windows: Windows,
    *,
    n_samples: int,
    seed: int,
    wanted: Bool[np.ndarray, " latent"] | None = None,
) -> Samples:
    """Draw up to `n_samples` eligible firing tokens of every latent, by activation and spread over its documents.

    Systematic sampling without replacement: a latent's firings are put in order, document after document (documents and
    the tokens of each in random order), firing t takes min(1, c |fᵢ(t)|) of a line, c such that the line has length n,
    and the firings at every unit from a random start are taken. So the chance of a firing is proportional to its
    activation, as far as it can be taken only once, and a document's part of the sample is the sum of its chances, to
    within one token. A latent with n firings or fewer is measured at each of them.

    Args:
        firings: the latents over held-out tokens.
        windows: the tokens they were read on.
        n_samples: most tokens a latent.
        seed: seed of the draw, which is a pure function of it and the firings.
        wanted: the latents that are sampled; all by default. It changes nothing for those that are.
    """
    rng = np.random.default_rng(seed)
    eligible = np.flatnonzero(has_target(firings, windows))
    document_order = rng.permutation(int(firings.document.max(initial=-1)) + 1)
    shuffled = eligible[np.lexsort((rng.random(len(eligible)), document_order[firings.document[eligible]]))]
    columns = firings.matrix[shuffled].tocsc()
    starts = rng.random(firings.n_latents)
    entries: list[Int[np.ndarray, " sample"]] = []
    for i, start in enumerate(starts):
        first, end = columns.indptr[i : i + 2]
        if end > first and (wanted is None or wanted[i]):
            chances = inclusion_chances(columns.data[first:end], n_samples)
            units = start + np.arange(min(n_samples, end - first))
            # Rounding may reach the end of the line, never beyond its last firing.
            taken = np.minimum(np.searchsorted(np.cumsum(chances), units, side="right"), end - first - 1)
            entries.append(first + taken)
    entry = np.concatenate([*entries, np.empty(0, dtype=np.int64)]).astype(np.int64)
    return Samples(
        latent=(np.searchsorted(columns.indptr, entry, side="right") - 1).astype(np.int32),
        row=shuffled[columns.indices[entry]].astype(np.int64),
        value=columns.data[entry].astype(np.float32),
    )


def inclusion_chances(activations: Float[np.ndarray, " firing"], n: int) -> Float[np.ndarray, " firing"]:
    """min(1, c |f|) with c such that the chances sum to n; 1 for each of n firings or fewer."""
    size = np.abs(activations).astype(np.float64)
    if len(size) <= n:
        return np.ones(len(size))
    if n == 0:
        return np.zeros(len(size))
    descending = -np.sort(-size)
    # What remains of n, and of all activation, when the m largest are certain.
    remaining, rest = n - np.arange(n), np.cumsum(descending[::-1])[::-1][:n]
    certain = int(np.argmax(remaining * descending[:n] <= rest))
    return np.minimum(1.0, remaining[certain] / rest[certain] * size)


def spread_out(samples: Samples, n: int) -> Bool[np.ndarray, " sample"]:
    """At most `n` samples of each latent, evenly spaced among its own, and so spread over its documents."""
    first = np.searchsorted(samples.latent, samples.latent)
    taken = np.searchsorted(samples.latent, samples.latent, side="right") - first
    nth = np.arange(len(samples)) - first
    kept = np.minimum(taken, n)
    return (nth + 1) * kept // taken > nth * kept // taken


def n_followed(windows: Windows, *, most: int) -> Int[np.ndarray, "window position"]:
    """How many predictions after each position's own have a target of its document, without a break; at most `most`.

    A target is a token that is not special.
    """
    document, context = windows.document, windows.tokens.shape[1]
    found = np.zeros(windows.tokens.shape, dtype=np.int64)
    unbroken = np.ones(windows.tokens.shape, dtype=bool)
    for j in range(1, min(most, context - 1) + 1):
        target = np.zeros_like(unbroken)
        target[:, : context - j - 1] = ~windows.special[:, j + 1 :] & (
            document[:, j + 1 :] == document[:, : context - j - 1]
        )
        unbroken &= target
        found += unbroken
    return found
