"""Correlations of latents on held-out text with what another dictionary, or a table, makes of them.

Whatever is measured is a function of sums over cells of held-out tokens, a cell being the tokens of one group of
documents that the same tables know: with them a correlation on any of these tokens, and without any of the groups, is
a matter of adding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.core.errors import InputError

Prediction = Callable[[slice], Float[np.ndarray, "token latent"]]
"""What is made of the judged latents at some held-out tokens, which are counted in the order of the cells."""


@dataclass(frozen=True)
class Sides:
    """One dictionary's firings on both sides of the text.

    Attributes:
        learn: over train tokens, that matches and predictions are chosen on.
        heldout: over tokens of other documents, that they are measured on.
    """

    learn: Firings
    heldout: Firings


@dataclass(frozen=True)
class Correlations:
    """Correlation on held-out text of every latent with what each of several dictionaries or tables makes of it.

    Attributes:
        value: Pearson correlation; NaN where the latent does not vary.
        without: the same with each group of documents left out, for the jackknife.
    """

    value: Float[np.ndarray, "dictionary latent"]
    without: Float[np.ndarray, "dictionary group latent"]

    @classmethod
    def joined(cls, parts: "Sequence[Correlations]") -> "Correlations":
        """Those of one dictionary or more as one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "without")))


@dataclass(frozen=True)
class Cells:
    """Held-out tokens in cells.

    Attributes:
        order: the tokens, cell by cell.
        starts: where each cell starts in that order, and the end.
        group: the group of documents of each cell.
        sets: by name, the cells whose tokens belong to a set of tokens.
        n_groups: how many groups there are.
    """

    order: Int[np.ndarray, " token"]
    starts: Int[np.ndarray, " cell_plus_1"]
    group: Int[np.ndarray, " cell"]
    sets: Mapping[str, Bool[np.ndarray, " cell"]]
    n_groups: int

    @classmethod
    def of(cls, firings: Firings, sets: Mapping[str, Bool[np.ndarray, " token"]], n_groups: int, seed: int) -> "Cells":
        """The cells of the tokens of `firings`, whose documents are put into groups of about as many by chance.

        Raises:
            InputError: there are fewer than two documents.
        """
        documents, document = np.unique(firings.document, return_inverse=True)
        if len(documents) < 2:
            raise InputError(
                "correlations need at least two held-out documents", fix="use a larger held-out part of the corpus"
            )
        n_groups = min(n_groups, len(documents))
        group = (np.random.default_rng(seed).permutation(len(documents)) % n_groups)[document]
        code = group.astype(np.int64)
        for rows in sets.values():
            code = 2 * code + rows
        order = np.argsort(code, kind="stable")
        codes, starts = np.unique(code[order], return_index=True)
        members: dict[str, Bool[np.ndarray, " cell"]] = {}
        for name in reversed(list(sets)):
            members[name] = codes % 2 == 1
            codes = codes // 2
        return cls(order, np.append(starts, len(order)), codes, members, n_groups)

    @property
    def lengths(self) -> Int[np.ndarray, " cell"]:
        """Tokens of each cell."""
        return np.diff(self.starts)

    def totals(self, sums: Float[np.ndarray, "cell *latent"], name: str) -> Float[np.ndarray, "group_plus_1 *latent"]:
        """Sums over a set of tokens: all of them, and without each group."""
        chosen = self.sets[name]
        by_group = np.zeros((self.n_groups, *sums.shape[1:]))
        np.add.at(by_group, self.group[chosen], sums[chosen])
        total = by_group.sum(axis=0)
        return np.concatenate([total[None], total - by_group])


class Judged:
    """The dictionary that is judged: what correlations need of its latents that fire on both sides.

    Args:
        sides: its firings.
        cells: of the held-out tokens.
        chunk_bytes: about the largest size of what is held of a prediction.
    """

    def __init__(self, sides: Sides, cells: Cells, chunk_bytes: int):
        fires = [
            np.bincount(side.matrix.indices, minlength=side.n_latents) > 0 for side in (sides.learn, sides.heldout)
        ]
        self.alive = np.flatnonzero(fires[0] & fires[1])
        self.n_latents, self.cells, self.chunk_bytes = sides.learn.n_latents, cells, chunk_bytes
        self.learn: Any = sides.learn.matrix[:, self.alive]
        self.mean, self.scale = standard(self.learn)
        self.heldout: Any = sides.heldout.matrix[cells.order][:, self.alive]
        starts, n = cells.starts, len(cells.order)
        self._by_cell: Any = csr_array((np.ones(n), np.arange(n), starts), shape=(len(starts) - 1, n))
        wide = self.heldout.astype(np.float64)
        self._x: Float[np.ndarray, "cell alive"] = (self._by_cell @ wide).toarray()
        self._xx: Float[np.ndarray, "cell alive"] = (self._by_cell @ wide.power(2)).toarray()

    def matched(self, chosen: Float[Any, "token alive"]) -> dict[str, Correlations]:
        """With one latent of another dictionary each, whose firings are given in the order of the cells."""
        wide = chosen.astype(np.float64)
        sums = (wide, wide.power(2), wide.multiply(self.heldout))
        return self._correlations(*((self._by_cell @ each).toarray() for each in sums))

    def predicted(self, prediction: Prediction) -> dict[str, Correlations]:
        """With a prediction of each, by set of tokens."""
        n_cells, n = len(self.cells.group), len(self.alive)
        y, yy, xy = (np.zeros((n_cells, n)) for _ in range(3))
        step = max(1, self.chunk_bytes // (8 * max(1, n)))
        for cell, (start, end) in enumerate(zip(self.cells.starts[:-1], self.cells.starts[1:], strict=True)):
            for at in range(start, end, step):
                rows = slice(at, min(at + step, end))
                values, fires = prediction(rows), self.heldout[rows]
                y[cell] += values.sum(axis=0)
                yy[cell] += np.einsum("ij,ij->j", values, values)
                row = np.repeat(np.arange(len(values)), np.diff(fires.indptr))
                xy[cell] += np.bincount(fires.indices, fires.data * values[row, fires.indices], minlength=n)
        return self._correlations(y, yy, xy)

    def _correlations(
        self, y: Float[np.ndarray, "cell a"], yy: Float[np.ndarray, "cell a"], xy: Float[np.ndarray, "cell a"]
    ) -> dict[str, Correlations]:
        found: dict[str, Correlations] = {}
        for name in self.cells.sets:
            terms = (self.cells.totals(each, name) for each in (self._x, self._xx, y, yy, xy))
            n = self.cells.totals(self.cells.lengths.astype(np.float64), name)
            r = self.everywhere(_correlation(n[:, None], *terms))
            found[name] = Correlations(r[:1], r[None, 1:])
        return found

    def everywhere(
        self, values: Shaped[np.ndarray, "*batch alive"], otherwise: float = np.nan
    ) -> Shaped[np.ndarray, "*batch latent"]:
        """Values of the latents that fire among those of all."""
        found = np.full((*values.shape[:-1], self.n_latents), otherwise, values.dtype)
        found[..., self.alive] = values
        return found


class Other:
    """Another dictionary's latents, as far as they vary on the train side.

    Args:
        sides: its firings, on the same tokens as those of the judged one.
        chunk_bytes: about the largest size of sparse products that are held.

    Attributes:
        used: which of its latents these are.
    """

    def __init__(self, sides: Sides, chunk_bytes: int):
        _, scale = standard(sides.learn.matrix)
        self.used = np.flatnonzero(scale)
        self._heldout, self._chunk_bytes = sides.heldout, chunk_bytes
        self._learn: Any = sides.learn.matrix[:, self.used]
        self._mean, self._scale = standard(self._learn)
        self._transposed: Any = self._learn.T.tocsr()

    def correlations(self, judged: Judged) -> Float[np.ndarray, "used alive"]:
        """Correlations on the train side."""
        return self._products(judged.learn, judged.mean, judged.scale)

    def match(self, judged: Judged, learn: Float[np.ndarray, "used alive"]) -> tuple[Correlations, np.ndarray]:
        """The latent of the highest correlation on the train side: its correlation on the held-out side, and which."""
        n_rows, n = self._heldout.n_tokens, len(judged.alive)
        if not len(self.used):
            silent: Any = csr_array((n_rows, n), dtype=np.float32)
            return judged.matched(silent)[next(iter(judged.cells.sets))], np.full(judged.n_latents, -1)
        chosen = self.used[learn.argmax(axis=0)]
        columns: Any = self._heldout.matrix[judged.cells.order].tocsc()[:, chosen].tocsr()
        found = judged.matched(columns)[next(iter(judged.cells.sets))]
        return found, judged.everywhere(chosen, -1)

    def predict(self, judged: Judged, learn: Float[np.ndarray, "used alive"], ridge: float) -> dict[str, Correlations]:
        """The best linear prediction from all latents, by set of tokens.

        w = (ZᵀZ + λ)⁻¹ Zᵀx on the train side, Z with centred columns of norm 1, from ZᵀZ and Zᵀx alone.
        """
        gram = torch.from_numpy(self._products(self._learn, self._mean, self._scale))
        gram.diagonal().add_(ridge)
        # Symmetric up to rounding; the lower half alone is read. Its smallest eigenvalue is λ or more, and rounding of
        # float32 some 1e-7 of its largest one.
        solved = torch.cholesky_solve(torch.from_numpy(learn), torch.linalg.cholesky(gram, out=gram))
        weights = np.ascontiguousarray(solved.numpy()) * self._scale[:, None].astype(np.float32)
        del gram, solved
        offset = -(self._mean @ weights)
        heldout: Any = self._heldout.matrix[judged.cells.order][:, self.used]

        def prediction(rows: slice) -> Float[np.ndarray, "token alive"]:
            values = heldout[rows] @ weights
            values += offset.astype(np.float32)
            return values

        return judged.predicted(prediction)

    def _products(
        self, matrix: Any, mean: Float[np.ndarray, " b"], scale: Float[np.ndarray, " b"]
    ) -> Float[np.ndarray, "used b"]:
        """Products of its standardised latents with those of `matrix`, over the train tokens."""
        n_tokens, n = matrix.shape
        found = np.empty((len(self.used), n), np.float32)
        step = max(1, self._chunk_bytes // (16 * max(1, n)))
        for at in range(0, len(found), step):
            rows = slice(at, at + step)
            block = (self._transposed[rows] @ matrix).toarray()
            block -= np.outer(n_tokens * self._mean[rows], mean).astype(np.float32)
            found[rows] = block * np.outer(self._scale[rows], scale).astype(np.float32)
        return found


def standard(matrix: Any) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """(mean, 1 / norm about the mean) of every latent over the tokens; 0 for the norm of one that does not vary."""
    n_tokens, n = matrix.shape
    wide = matrix.data.astype(np.float64)
    sums = np.bincount(matrix.indices, wide, minlength=n)
    squares = np.bincount(matrix.indices, wide**2, minlength=n)
    mean = sums / max(1, n_tokens)
    spread = squares - sums * mean
    return mean, np.where(spread > 1e-9 * squares, 1 / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


def _correlation(
    n: Float[np.ndarray, "row 1"],
    x: Float[np.ndarray, "row latent"],
    xx: Float[np.ndarray, "row latent"],
    y: Float[np.ndarray, "row latent"],
    yy: Float[np.ndarray, "row latent"],
    xy: Float[np.ndarray, "row latent"],
) -> Float[np.ndarray, "row latent"]:
    """Pearson correlation from sums; NaN where x is constant, 0 where only y is."""
    spread_x, spread_y = n * xx - x**2, n * yy - y**2
    still_x, still_y = spread_x <= 1e-9 * n * xx, spread_y <= 1e-9 * n * yy
    r = (n * xy - x * y) / np.sqrt(np.where(still_x | still_y, 1.0, spread_x * spread_y))
    return np.where(still_x, np.nan, np.where(still_y, 0.0, np.clip(r, -1, 1))).astype(np.float32)
