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
    """Draw up to `n_samples` eligible firing tokens of every latent, spread over its documents.

    Systematic sampling: a latent's firings are put in order, document after document (documents and the tokens of
    each in random order), and every (M / n)-th of the M is taken from a random start. Every firing token has the
    same chance n / M, so the plain mean over the sample estimates the mean over firing tokens without bias, and a
    document's share of the sample is its share of the firings to within one token. (Taking the same number from
    each document would reach a few more documents and estimate something else.)

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
    n_firings = np.diff(columns.indptr).astype(np.int64)
    taken = np.minimum(n_firings, n_samples) * (1 if wanted is None else wanted)
    latent = np.repeat(np.arange(firings.n_latents), taken)
    nth = np.arange(len(latent)) - np.repeat(np.cumsum(taken) - taken, taken)
    start = rng.random(firings.n_latents)[latent]
    step = n_firings[latent] / np.maximum(taken[latent], 1)
    # Rounding may reach the end of the column, never beyond its last entry.
    offset = np.minimum(((start + nth) * step).astype(np.int64), n_firings[latent] - 1)
    entry = columns.indptr[latent] + offset
    return Samples(
        latent=latent.astype(np.int32),
        row=shuffled[columns.indices[entry]].astype(np.int64),
        value=columns.data[entry].astype(np.float32),
    )


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
