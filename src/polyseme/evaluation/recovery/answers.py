"""What latents and features did on the same rows, sparse: all that firing metrics look at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from polyseme.core.batch import Latents
from polyseme.core.errors import InputError

Values = Latents | Float[Tensor, "_ _"]
"""What latents or features did on some rows, `[row, unit]`; features, too, have a sparse form in `Latents`."""


@dataclass(frozen=True)
class FeatureTruth:
    """The features that a dictionary should find.

    Attributes:
        directions: what each feature adds to a vector at value 1, `[feature, d]`, of any length.
        parents: the feature without which each cannot be on, −1 for none; None where there is no hierarchy.

    Raises:
        InputError: parents that are not features, or that form a cycle.
    """

    directions: Float[Tensor, "feature d"]
    parents: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.parents is None:
            return
        n, parents = len(self.directions), self.parents
        if len(parents) != n or any(not -1 <= p < n for p in parents):
            raise InputError(f"parents must be {n} feature numbers, −1 for none", where="truth.parents")
        for feature in range(n):
            ancestor, steps = feature, 0
            while ancestor >= 0:
                ancestor, steps = parents[ancestor], steps + 1
                if steps > n:
                    raise InputError(f"feature {feature} is its own ancestor", where="truth.parents")

    def __len__(self) -> int:
        return len(self.directions)

    @cached_property
    def depths(self) -> Int[np.ndarray, " feature"]:
        """Ancestors of each feature; 0 for a root."""
        parents = self.parents or [-1] * len(self)
        depths = np.zeros(len(self), np.int64)
        for feature in range(len(self)):
            ancestor = parents[feature]
            while ancestor >= 0:
                depths[feature] += 1
                ancestor = parents[ancestor]
        return depths

    @cached_property
    def lengths(self) -> Float[np.ndarray, " feature"]:
        """‖direction‖ of each feature."""
        return torch.linalg.vector_norm(self.directions.detach().cpu().double(), dim=1).numpy()


@dataclass(frozen=True)
class Answers:
    """Activations and truth of the same rows; every metric is a sum over rows, so their order plays no part.

    Attributes:
        latents: activations `[row, latent]`, zero where a latent is silent.
        features: values `[row, feature]`, zero where a feature is off.
    """

    latents: sparse.csr_array
    features: sparse.csr_array

    @classmethod
    def of(cls, batches: Iterable[tuple[Values, Values]]) -> "Answers":
        """Join batches of (latent activations, feature values), each dense or sparse.

        Raises:
            InputError: no rows, rows that do not pair up, or values that are not finite.
        """
        z: list[sparse.csr_array] = []
        f: list[sparse.csr_array] = []
        for latents, values in batches:
            z.append(_matrix(latents))
            f.append(_matrix(values))
            if _rows(z[-1]) != _rows(f[-1]):
                raise InputError(f"{_rows(z[-1])} rows of latents beside {_rows(f[-1])} of features")
        if not sum(map(_rows, z)):
            raise InputError("there are no rows to score", fix="give at least one row of latents and features")
        joined = cls(sparse.csr_array(sparse.vstack(z)), sparse.csr_array(sparse.vstack(f)))
        for name, matrix in (("latent activations", joined.latents), ("feature values", joined.features)):
            if not np.isfinite(matrix.data).all():
                raise InputError(f"{name} that are not finite", where="recovery")
        return joined

    @property
    def n_rows(self) -> int:
        return _rows(self.latents)

    @cached_property
    def fired(self) -> Int[np.ndarray, " latent"]:
        """Rows on which each latent is active."""
        return np.asarray(self._latent_on.sum(axis=0))

    @cached_property
    def occurred(self) -> Int[np.ndarray, " feature"]:
        """Rows on which each feature is on."""
        return np.asarray(self._feature_on.sum(axis=0))

    @cached_property
    def joint(self) -> Int[np.ndarray, "feature latent"]:
        """Rows on which feature and latent are on together."""
        return (self._feature_on.T @ self._latent_on).toarray()

    def joint_with(self, feature: Int[np.ndarray, " latent"]) -> Int[np.ndarray, " latent"]:
        """Rows on which each latent and the feature that is named for it are on together."""
        return np.asarray(self._latent_on.multiply(self._feature_on[:, feature]).sum(axis=0))

    @cached_property
    def products(self) -> Float[np.ndarray, "feature latent"]:
        """Σ over rows of value × activation."""
        return (self.features.T @ self.latents).toarray()

    @cached_property
    def joint_squares(self) -> Float[np.ndarray, "feature latent"]:
        """Σ value² over the rows on which the latent is active too."""
        return (self.features.power(2).T @ self._latent_on).toarray()

    @cached_property
    def squares(self) -> Float[np.ndarray, " feature"]:
        """Σ value²."""
        return np.asarray(self.features.power(2).sum(axis=0))

    @cached_property
    def f1(self) -> Float[np.ndarray, "feature latent"]:
        """2 × joint / (occurred + fired): the harmonic mean of precision and recall; 0 where neither was ever on."""
        total = self.occurred[:, None] + self.fired
        return 2 * self.joint / np.maximum(total, 1)

    @cached_property
    def correlation(self) -> Float[np.ndarray, "feature feature"]:
        """Correlation of being on between features (φ); 0 for one that is always or never on."""
        n = self.n_rows
        together = (self._feature_on.T @ self._feature_on).toarray() / n
        p = self.occurred / n
        spread = np.sqrt(p * (1 - p))
        scale = np.outer(spread, spread)
        return np.where(scale > 0, (together - np.outer(p, p)) / np.where(scale > 0, scale, 1), 0.0)

    @cached_property
    def own_latent(self) -> Int[np.ndarray, " feature"]:
        """The latent that predicts best whether the feature is on (highest F1, lowest index of equals); −1: none."""
        best = self.f1.argmax(axis=1)
        return np.where(self.f1[np.arange(len(best)), best] > 0, best, -1)

    def feature_on(self, feature: int) -> Int[np.ndarray, " row"]:
        """0 or 1 a row."""
        return self._dense_column(self._feature_columns, feature)

    def latent_on(self, latent: int) -> Int[np.ndarray, " row"]:
        """0 or 1 a row."""
        return self._dense_column(self._latent_columns, latent)

    def _dense_column(self, columns: sparse.csc_array, i: int) -> Int[np.ndarray, " row"]:
        out = np.zeros(self.n_rows, np.int64)
        out[columns.indices[columns.indptr[i] : columns.indptr[i + 1]]] = 1
        return out

    @cached_property
    def _latent_on(self) -> sparse.csr_array:
        return _mask(self.latents)

    @cached_property
    def _feature_on(self) -> sparse.csr_array:
        return _mask(self.features)

    @cached_property
    def _latent_columns(self) -> sparse.csc_array:
        return sparse.csc_array(self._latent_on)

    @cached_property
    def _feature_columns(self) -> sparse.csc_array:
        return sparse.csc_array(self._feature_on)


def _rows(matrix: sparse.csr_array) -> int:
    return len(matrix.indptr) - 1


def _mask(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(matrix.data), np.int64), matrix.indices, matrix.indptr), shape=matrix.shape)


def _matrix(values: Values) -> sparse.csr_array:
    return _of_latents(values) if isinstance(values, Latents) else _of_dense(values)


def _of_latents(latents: Latents) -> sparse.csr_array:
    arrays = (latents.values.cpu().double(), latents.indices, latents.offsets)
    matrix = sparse.csr_array(
        tuple(part.detach().cpu().numpy() for part in arrays), shape=(latents.n_rows, latents.n_latents)
    )
    matrix.eliminate_zeros()
    return matrix


def _of_dense(values: Float[Tensor, "row column"]) -> sparse.csr_array:
    return sparse.csr_array(values.detach().cpu().double().numpy())
