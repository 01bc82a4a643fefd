"""What each latent stands for: the next tokens that follow its firings more often than their tokens alone explain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.causal.sampling import has_target
from polyseme.core.errors import InputError
from polyseme.corpora.pack import Windows

LEAST_LIFT = 1e-3
"""Standard deviation of a lift below which it is rounding: its q is divided by this."""
REFERENCES = ("any token", "the same tokens")
"""What the next tokens at a latent's firings are compared with: those after any token, and those after the tokens at
which it fires."""


@dataclass(frozen=True)
class Meanings:
    """What each latent of a dictionary stands for, counted on train text.

    qᵢ(v) = Σₜ fᵢ(t) [next token of t is v] / Σₜ fᵢ(t) − P(next token = v), each firing counted by its activation. (A
    dictionary that fills its k at every token has many weak firings where something else is on, and counted alike they
    would speak for that.) The same with another reference: how often v follows the tokens at which latent i fires
    wherever they occur, in the shares of its activation at them. Both sum to 0. The second is 0 throughout for a latent
    that fires alike at every occurrence of its tokens, so that it cannot show whether the network uses such a latent;
    the first can.

    Attributes:
        following: each latent's activation before each token, summed over its firings.
        current: its activation at each token, summed likewise.
        bigrams: P(next token | current token).
        overall: P(next token).
        totals: activation of all firings counted: those whose next token exists in the window and is not special.
    """

    following: csr_array
    current: csr_array
    bigrams: csr_array
    overall: Float[np.ndarray, " vocabulary"]
    totals: Float[np.ndarray, " latent"]

    @property
    def vocabulary(self) -> int:
        """Tokens that may follow."""
        return cast(tuple[int, int], self.bigrams.shape)[1]

    @property
    def n_latents(self) -> int:
        """Latents of the dictionary."""
        return len(self.totals)

    @classmethod
    def learn(cls, firings: Firings, windows: Windows, vocabulary: int) -> "Meanings":
        """Count what follows the firings.

        Args:
            firings: of the dictionary over train windows.
            windows: those windows.
            vocabulary: tokens that the network predicts; all tokens of the windows are below it.

        Raises:
            InputError: a token is not below `vocabulary`.
        """
        rows = np.flatnonzero(has_target(firings, windows))
        current = firings.token[rows].astype(np.int64)
        following = windows.tokens[firings.window[rows], firings.position[rows] + 1].astype(np.int64)
        most = int(max(current.max(initial=-1), following.max(initial=-1)))
        if most >= vocabulary:
            raise InputError(
                f"the text has token {most}, and the network predicts {vocabulary:,} tokens",
                where="meanings of latents",
                fix="give the windows and the network's own number of predicted tokens",
            )
        fired = firings.matrix[rows].maximum(0).T.tocsr()
        of_current, of_following = (_one_hot(tokens, vocabulary) for tokens in (current, following))
        pairs = csr_array(of_current.T @ of_following)
        occurrences = np.maximum(pairs.sum(axis=1), 1)
        pairs.data /= np.repeat(occurrences, np.diff(pairs.indptr)).astype(np.float32)
        return cls(
            following=csr_array(fired @ of_following),
            current=csr_array(fired @ of_current),
            bigrams=pairs,
            overall=np.bincount(following, minlength=vocabulary).astype(np.float32) / max(1, len(following)),
            totals=np.asarray(fired.sum(axis=1, dtype=np.float64)).ravel(),
        )

    def of(self, latents: Sequence[int] | Int[np.ndarray, " some"]) -> Float[np.ndarray, "some reference vocabulary"]:
        """q of some latents with each of `REFERENCES`; NaN for a latent that never fired."""
        some = np.asarray(latents, dtype=np.int64)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = (1 / np.where(self.totals[some] > 0, self.totals[some], np.nan)).astype(np.float32)[:, None]
        following = self.following[some].toarray() * each
        found = np.stack([following, following], axis=1)
        found[:, 0] -= self.overall
        found[:, 1] -= (self.bigrams.T @ self.current[some].T.toarray()).T * each
        return found

    def in_units_of_lift(
        self, latents: Sequence[int] | Int[np.ndarray, " some"]
    ) -> Float[np.ndarray, "some reference vocabulary"]:
        """q of some latents, each divided by the standard deviation of q / P under P, P(v) = P(next token = v).

        For any Δ(v) the sum of this times Δ, divided by the standard deviation of Δ under P, is then the correlation of
        Δ with the lift P(next token | i fires) / P(next token), or with how much that exceeds the reference's.
        """
        q = self.of(latents)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt((q**2 / np.where(self.overall > 0, self.overall, np.inf)).sum(axis=-1, keepdims=True))
        return q / np.maximum(spread, np.float32(LEAST_LIFT))


def _one_hot(tokens: Int[np.ndarray, " row"], vocabulary: int) -> csr_array:
    ones, at = np.ones(len(tokens), dtype=np.float32), np.arange(len(tokens) + 1)
    return csr_array((ones, tokens, at), shape=(len(tokens), vocabulary))
