"""Components of vectors alone: independent sources, and sparse dictionaries of any size."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from polyseme.diagnosis.geometry import rotations
from polyseme.diagnosis.reading import oriented

GAUSSIAN = 0.3745672075
"""E log cosh of a standard Gaussian."""
WIDE = 256
"""Number of neurons beyond which principal components are computed from the covariance."""


@dataclass(frozen=True)
class Sources:
    """Independent components found on one half of the rows.

    Attributes:
        values: the components, of unit variance on the rows fitted, `[row, source]`.
        whitened: the principal components that the sources are a rotation of, `[row, source]`.
        directions: what each source writes to the site, `[source, d]`.
    """

    values: Float[np.ndarray, "row source"]
    whitened: Float[np.ndarray, "row source"]
    directions: Float[np.ndarray, "source d"]


class Components(NamedTuple):
    """A site's vectors and the sources found in half of them.

    Attributes:
        vectors: `[row, d]`, at most as many rows as the configuration allows.
        fit: rows that the sources were found on.
        held_out: the other rows.
        sources: see `Sources`.
    """

    vectors: Float[np.ndarray, "row d"]
    fit: Int[np.ndarray, " fit"]
    held_out: Int[np.ndarray, " held_out"]
    sources: Sources


def log_cosh(x: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """log cosh, without overflow."""
    return np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - np.log(2)


def independent_sources(
    vectors: Float[np.ndarray, "row d"],
    fit: Int[np.ndarray, " fit"],
    rng: np.random.Generator,
    *,
    most: int = 32,
    n_starts: int = 3,
) -> Sources:
    """Symmetric FastICA with the log cosh contrast on at most `most` principal components, the best of a few starts.

    Hyvärinen 1999, Fast and robust fixed-point algorithms for independent component analysis, eq. 39.
    """
    centred = vectors - vectors[fit].mean(0)
    values, axes = leading_axes(centred[fit], most)
    axes = oriented(centred[fit], axes)
    z = centred @ axes / values * np.sqrt(len(fit))
    x, k = z[fit], z.shape[1]
    best, chosen = -np.inf, np.eye(k)
    for start in rotations(n_starts, k, rng):
        turn = start
        for _ in range(200):
            g = np.tanh(x @ turn.T)
            new = g.T @ x / len(x) - (1 - g**2).mean(0)[:, None] * turn
            u, _, vt = np.linalg.svd(new)
            new = u @ vt
            moved = np.abs(np.abs((new * turn).sum(1)) - 1).max()
            turn = new
            if moved < 1e-6:
                break
        contrast = float(((log_cosh(x @ turn.T).mean(0) - GAUSSIAN) ** 2).sum())
        if contrast > best:
            best, chosen = contrast, turn
    values = z @ chosen.T
    directions = values[fit].T @ centred[fit] / len(fit)
    return Sources(values, z, directions)


def principal_axes(
    centred: Float[np.ndarray, "row d"], most: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "d k"]]:
    """The `most` largest singular values and their right vectors, of the covariance: several times as fast as an SVD.

    Singular values under 1e-8 of the largest are lost to rounding.
    """
    from scipy.linalg import eigh

    d = centred.shape[1]
    squared, axes = eigh(centred.T @ centred, subset_by_index=(max(0, d - most), d - 1))
    return np.sqrt(np.maximum(squared[::-1], 0)), axes[:, ::-1]


def leading_axes(
    centred: Float[np.ndarray, "row d"], most: int, floor: float = 0.03
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "d k"]]:
    """At most `most` singular values, of at least `floor` times the largest, and their right vectors."""
    if centred.shape[1] > WIDE:
        values, axes = principal_axes(centred, most)
    else:
        _, values, vt = np.linalg.svd(centred, full_matrices=False)
        values, axes = values[:most], vt[:most].T
    kept = values >= floor * values[0]
    return values[kept], axes[:, kept]


def matching_pursuit(
    vectors: Float[np.ndarray, "row d"], atoms: Float[np.ndarray, "atom d"], k: int
) -> Float[np.ndarray, "row atom"]:
    """Codes with at most k entries a row, each the best next one (Mallat & Zhang 1993); atoms of unit length."""
    codes, residual, rows = np.zeros((len(vectors), len(atoms))), vectors.copy(), np.arange(len(vectors))
    for _ in range(k):
        scores = residual @ atoms.T
        chosen = np.abs(scores).argmax(1)
        amount = scores[rows, chosen]
        codes[rows, chosen] += amount
        residual -= amount[:, None] * atoms[chosen]
    return codes


def sparse_dictionary(
    vectors: Float[np.ndarray, "row d"], n_atoms: int, k: int, rng: np.random.Generator, *, n_steps: int = 25
) -> Float[np.ndarray, "atom d"]:
    """Atoms of unit length for codes of k entries: matching pursuit and least squares in turn (Engan et al. 1999).

    Atoms that stay unused are put on the rows that are explained worst.
    """
    norms = np.linalg.norm(vectors, axis=1)
    chance = norms**2 / (norms**2).sum()
    atoms = vectors[rng.choice(len(vectors), n_atoms, replace=len(vectors) < n_atoms, p=chance)]
    atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    for step in range(n_steps):
        codes = matching_pursuit(vectors, atoms, k)
        gram = codes.T @ codes
        atoms = np.linalg.solve(gram + 1e-6 * np.trace(gram) / n_atoms * np.eye(n_atoms), codes.T @ vectors)
        lengths = np.linalg.norm(atoms, axis=1)
        unused = np.flatnonzero(lengths < 1e-6 * lengths.max())
        if len(unused) and step < n_steps - 5:
            error = ((vectors - codes @ atoms) ** 2).sum(1)
            atoms[unused] = vectors[np.argsort(error)[-len(unused) :]]
            lengths = np.linalg.norm(atoms, axis=1)
        atoms = atoms / np.maximum(lengths, 1e-30)[:, None]
    return atoms


def unexplained(
    vectors: Float[np.ndarray, "row d"], atoms: Float[np.ndarray, "atom d"], k: int
) -> Float[np.ndarray, " row"]:
    """Squared error of each row's code of k entries."""
    return ((vectors - matching_pursuit(vectors, atoms, k) @ atoms) ** 2).sum(1)
