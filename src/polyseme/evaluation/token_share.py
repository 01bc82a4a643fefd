"""Token share: how much of a latent's variance the token alone explains."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.core.seeds import derive_seed
from polyseme.evaluation.finishes import jackknife_error


@dataclass(frozen=True)
class TokenShare:
    """Token share of every latent of one dictionary; NaN where it was not measured.

    Attributes:
        value: ε², the record: η² corrected for the many tokens that occur a few times only. About 0 for a latent that
            has nothing to do with the token, and may lie a little below.
        low, high: 95% interval of ε² by jackknife over groups of documents.
        raw: η² as it is, which grows with the number of distinct tokens whatever the latent does.
    """

    value: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]
    raw: Float[np.ndarray, " latent"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under its name, for saving; `TokenShare(**arrays)` gives the object back."""
        return {"value": self.value, "low": self.low, "high": self.high, "raw": self.raw}


def token_share(firings: Firings, *, seed: int = 0, n_groups: int = 20) -> TokenShare:
    """Token share η² = Var(E[f | token]) / Var(f) of every latent, raw and corrected.

    η² = Σ_v n_v (f̄_v − f̄)² / Σ_t (f_t − f̄)² over N tokens of K distinct ids; with K ids a latent that ignores the
    token still scores about (K − 1) / (N − 1). Kelley's ε² = 1 − (1 − η²)(N − 1) / (N − K) takes that away (Kelley
    1935, An unbiased correlation ratio measure). The interval is ε² ± t · s with s from the jackknife that leaves out
    one group of documents at a time: a bootstrap would repeat documents, and a repeated token looks like a token that
    says what the latent does.

    Args:
        firings: the latents over held-out tokens.
        seed: seed of the grouping of documents.
        n_groups: groups of documents; as many as there are documents, where they are fewer.
    """
    from scipy.special import stdtrit

    documents, document = np.unique(firings.document, return_inverse=True)
    n_groups = min(n_groups, len(documents))
    rng = np.random.default_rng(derive_seed(seed, "token share"))
    group = (rng.permutation(len(documents)) % max(n_groups, 1))[document]
    tokens, token = np.unique(firings.token, return_inverse=True)
    parts = [_Sums.of(firings.matrix, np.flatnonzero(group == g), token, len(tokens)) for g in range(n_groups)]
    total = _Sums.of(firings.matrix, np.arange(firings.n_tokens), token, len(tokens))
    raw, corrected = total.shares()
    low, high = np.full_like(corrected, np.nan), np.full_like(corrected, np.nan)
    if n_groups >= 2:
        left = np.stack([total.without(part).shares()[1] for part in parts])
        # NaN, and so not measured, for a latent that only fires in one group.
        reach = float(stdtrit(n_groups - 1, 0.975)) * jackknife_error(left)
        low, high = corrected - reach, np.minimum(corrected + reach, 1.0)
    return TokenShare(corrected, low, high, raw)


@dataclass(frozen=True)
class _Sums:
    """Additive sums over some of the tokens: by token id, and of everything.

    Attributes:
        count: occurrences of each id.
        by_token: sparse sums of each latent over each id's occurrences.
        sums: the sum of each latent.
        squares: the sum of squares of each latent.
    """

    count: Float[np.ndarray, " id"]
    by_token: Any
    sums: Float[np.ndarray, " latent"]
    squares: Float[np.ndarray, " latent"]

    @classmethod
    def of(cls, matrix: csr_array, rows: np.ndarray, token: np.ndarray, n_ids: int) -> "_Sums":
        some: Any = matrix[rows].astype(np.float64)
        add = csr_array((np.ones(len(rows)), (token[rows], np.arange(len(rows)))), shape=(n_ids, len(rows)))
        count = np.bincount(token[rows], minlength=n_ids).astype(np.float64)
        return cls(count, add @ some, np.asarray(some.sum(axis=0)), np.asarray(some.multiply(some).sum(axis=0)))

    def without(self, part: "_Sums") -> "_Sums":
        return _Sums(
            self.count - part.count, self.by_token - part.by_token, self.sums - part.sums, self.squares - part.squares
        )

    def shares(self) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
        """(η², ε²) of each latent."""
        n, n_ids = self.count.sum(), np.count_nonzero(self.count)
        weight = np.divide(1.0, self.count, out=np.zeros_like(self.count), where=self.count > 0)
        explained = weight @ self.by_token.multiply(self.by_token).tocsr() - self.sums**2 / n
        spread = self.squares - self.sums**2 / n
        # Leaving a group out by subtraction leaves rounding noise where nothing else fired.
        raw = explained / np.where(spread > 1e-9 * np.maximum(self.squares, 1e-30), spread, np.nan)
        corrected = 1 - (1 - raw) * (n - 1) / (n - n_ids) if n > n_ids else np.full_like(raw, np.nan)
        return raw, corrected
