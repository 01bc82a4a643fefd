"""What tables of the token, the previous token, the bigram and the position make of latents.

A table knows only what occurs on the train side, whereas another dictionary reads the vector itself. At rare tokens it
therefore knows more than a table, although the latent may be a function of the token. So tables and dictionaries are
compared at the held-out tokens whose entry occurs `LEAST` times or more. With 400 planted functions of the token,
Zipfian tokens of a vocabulary of 20,000, 60,000 train and 100,000 held-out tokens, and three partners with less noise
than the latent, the share that exceeds the table by more than 0.05 (p < 0.05, not corrected) was:

    noise of the latent's size, firings left out   match   all tokens   once or more   five times or more
    0.3, none                                       0.95      4.5%          0.0%             0.0%
    0.5, 20%                                        0.77      4.3%          1.6%             0.0%
    0.5, 40%                                        0.69      8.5%          6.0%             1.4%
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.corpora import Windows
from polyseme.evaluation.matches import Correlations, Judged

TABLES = ("token", "previous token", "bigram", "position")
"""What they are called."""
LEAST = 5
"""Occurrences on the train side from which on a table knows an entry."""
POSITIONS = 50
"""Train tokens, at least, that positions next to each other are put together for."""
_MOST = 1000.0
"""The largest κ. A correlation does not know the size of what little differs between entries, so that where nothing
does, it is about 0 whatever κ is."""


@dataclass(frozen=True)
class Keys:
    """An entry of a table at every token of both sides.

    Attributes:
        learn, heldout: the entry, counted from 0; those that occur on the held-out side only too.
        n: how many there are.
    """

    learn: Int[np.ndarray, " learn"]
    heldout: Int[np.ndarray, " heldout"]
    n: int

    @classmethod
    def of(cls, learn: Int[np.ndarray, " learn"], heldout: Int[np.ndarray, " heldout"]) -> "Keys":
        """Those of any integers that tell entries apart."""
        kinds, place = np.unique(np.concatenate([learn, heldout]), return_inverse=True)
        return cls(place[: len(learn)], place[len(learn) :], len(kinds))

    @property
    def counts(self) -> Int[np.ndarray, " n"]:
        """Occurrences on the train side."""
        return np.bincount(self.learn, minlength=self.n)

    @property
    def known(self) -> Bool[np.ndarray, " heldout"]:
        """The held-out tokens whose entry occurs `LEAST` times or more on the train side."""
        return self.counts[self.heldout] >= LEAST


def table_keys(learn: Firings, heldout: Firings, windows: tuple[Windows, Windows]) -> dict[str, Keys]:
    """The entries of every table by its name."""
    token = Keys.of(learn.token.astype(np.int64), heldout.token.astype(np.int64))
    previous = Keys.of(*(_previous(side, of) for side, of in zip((learn, heldout), windows, strict=True)))
    bigram = Keys.of(token.learn * previous.n + previous.learn, token.heldout * previous.n + previous.heldout)
    return dict(zip(TABLES, (token, previous, bigram, _positions(learn, heldout)), strict=True))


def _previous(firings: Firings, windows: Windows) -> Int[np.ndarray, " token"]:
    """The token before each, a special one too; −1 at the start of a window."""
    before = windows.tokens[firings.window, np.maximum(firings.position - 1, 0)].astype(np.int64)
    return np.where(firings.position > 0, before, -1)


def _positions(learn: Firings, heldout: Firings) -> Keys:
    """Positions in the window, those next to each other together until `POSITIONS` train tokens have them."""
    counts = np.bincount(learn.position, minlength=int(heldout.position.max(initial=0)) + 1)
    place = (np.cumsum(counts) - counts) // POSITIONS
    return Keys.of(place[learn.position], place[heldout.position])


class Table:
    """Predictions ŷ_k = (S_k + κ p_k) / (n_k + κ) of every latent at the n_k train tokens of an entry, of sum S_k.

    p_k is the prediction of the entry's parent: the mean over all tokens, or for a bigram that of its token. κ is the
    ratio of the latent's variance within entries to that between entries of one parent, both by the analysis of
    variance (Searle, Casella & McCulloch 1992, Variance Components, section 3.6); with it ŷ_k is the best linear
    predictor where entries differ by chance. So a latent that is a function of the token is learned from a single
    occurrence, and one that ignores the token gets the parent's prediction.

    Args:
        judged: whose latents.
        keys: the entries.
        parent: the coarser table.
    """

    def __init__(self, judged: Judged, keys: Keys, parent: "Table | None" = None):
        matrix: Any = judged.learn
        n_tokens, self._parent, self._mean = matrix.shape[0], parent, judged.mean
        add = csr_array((np.ones(n_tokens), (keys.learn, np.arange(n_tokens))), shape=(keys.n, n_tokens))
        sums: Any = add @ matrix.astype(np.float64)
        self._sums: Any = sums.astype(np.float32)
        self._keys, self._counts = keys, keys.counts.astype(np.float64)
        self._heldout = keys.heldout[judged.cells.order]
        self._explained: Float[np.ndarray, " alive"] = self._per_occurrence @ sums.power(2)
        squares = np.bincount(matrix.indices, matrix.data.astype(np.float64) ** 2, minlength=matrix.shape[1])
        if parent is None:
            above, n_above, of = n_tokens * self._mean**2, 1, np.full(keys.n, 1.0 / n_tokens)
        else:
            entry = np.zeros(keys.n, np.int64)
            entry[keys.learn] = parent._keys.learn
            above, n_above, of = parent._explained, parent._n_known, parent._per_occurrence[entry]
        within = (squares - self._explained) / max(1, n_tokens - self._n_known)
        n_between = self._n_known - n_above
        usual = n_tokens - float(of @ self._counts**2)  # tokens an entry, times n_between
        between = (self._explained - above - n_between * within) / usual if n_between and usual > 0 else 0 * within
        ratio = np.divide(within, between, out=np.full_like(within, _MOST), where=between > within / _MOST)
        self._shrink = np.maximum(ratio, 1 / _MOST).astype(np.float32)

    @property
    def _n_known(self) -> int:
        """Entries that occur on the train side."""
        return int((self._counts > 0).sum())

    @property
    def _per_occurrence(self) -> Float[np.ndarray, " entry"]:
        """1 / n_k; 0 for an entry that does not occur."""
        return np.divide(1.0, self._counts, out=np.zeros_like(self._counts), where=self._counts > 0)

    def predict(self, rows: slice) -> Float[np.ndarray, "token alive"]:
        """The predictions at some held-out tokens, counted in the order of the cells, less the mean over all tokens."""
        entries = self._heldout[rows]
        counts = self._counts[entries].astype(np.float32)[:, None]
        values = self._sums[entries].toarray()
        values -= counts * self._mean.astype(np.float32)
        if self._parent is not None:
            values += self._shrink * self._parent.predict(rows)
        return values / (counts + self._shrink)


def tables(judged: Judged, keys: Mapping[str, Keys]) -> Iterator[tuple[str, Correlations]]:
    """Each table's correlations, at the held-out tokens that it knows."""
    token: Table | None = None
    for name, of_table in keys.items():
        table = Table(judged, of_table, parent=token if name == "bigram" else None)
        token = table if name == "token" else token
        yield name, judged.predicted(table.predict)[name]
