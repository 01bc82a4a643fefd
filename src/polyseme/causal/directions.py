"""The best direction to read a feature, and the best one to write it: duals, probes, steering vectors.

Activations are a = Σ_i z_i f_i, values z on features f_i (the rows of `features`). A feature is read by an inner
product with a vector and written by adding one. f_i serves for both only where it is orthogonal to every other
feature (Haufe et al. 2014, On the interpretation of weight vectors: filters against patterns).

Everything is computed in float64 and returned in the precision it was asked in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.precision import wide
from polyseme.kernels.shield import shielded

DEPENDENT = 1e-8
"""A reader whose part outside the span of the others is below this share of its squared length depends on them."""


@dataclass(frozen=True)
class Probe:
    """Linear read-offs ẑ_i = a · p_i + c_i.

    Attributes:
        directions: p_i.
        bias: c_i.
        r2: 1 − E[(z_i − ẑ_i)²] / Var(z_i), on the rows or the distribution it was fitted to; NaN for a value that
            does not vary.
    """

    directions: Float[Tensor, "feature d"]
    bias: Float[Tensor, " feature"]
    r2: Float[Tensor, " feature"]

    def __call__(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch feature"]:
        """The read-offs of activations."""
        return x @ self.directions.mT + self.bias


@shielded
def duals(features: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Vectors g_i with g_i · f_j = δ_ij: the rows of (F⁺)ᵀ.

    They exist where the features are linearly independent. Of more features than that they are the least-squares
    answer, g_i = (FᵀF)⁺ f_i: for values that are independent and of one variance, the best linear probe.

    Args:
        features: rows f_i; their lengths count, a feature twice as long has a dual half as long.

    Raises:
        InputError: no features, or numbers that are not finite.
    """
    return torch.linalg.pinv(_wide(features, "features")).mT.to(features.dtype)


@shielded
def surgical_steering(readers: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Vectors v_i whose addition changes read-off i by 1 and no other: v_i · r_j = δ_ij, the duals of the readers.

    Read with duals, v_i is the feature f_i itself; read with probes, it is not. Of all such vectors it is the shortest.

    Args:
        readers: rows r_i, what each feature is read with: probes, duals, a dictionary's `read_directions()`. Only those
            whose read-offs are to be kept: there is no such vector where readers depend on each other.

    Raises:
        InputError: a reader is a linear combination of others, so that its read-off cannot change alone.
    """
    rows = _wide(readers, "readers")
    inverse = torch.linalg.pinv(rows)
    # r_i · (RᵀR)⁺ r_i = 1 exactly where r_i is outside the span of the others.
    dependent = (1 - (rows * inverse.mT).sum(1) > DEPENDENT).nonzero().flatten().tolist()
    if dependent:
        shown = ", ".join(map(str, dependent[:8])) + (", …" if len(dependent) > 8 else "")
        raise InputError(
            f"{len(dependent)} of {len(rows)} readers in {rows.shape[1]} dimensions are combinations of others: no "
            "vector changes the read-off of one alone",
            where=f"readers {shown}",
            fix="pass only the readers whose read-offs matter, or take duals(readers) and look at the leaks",
        )
    return inverse.mT.to(readers.dtype)


@shielded
def leaks(
    readers: Float[Tensor, "feature d"], steering: Float[Tensor, "feature d"]
) -> Float[Tensor, "steered feature"]:
    """What else changes: (v_i · r_j) / (v_i · r_i), the change of read-off j where v_i changes read-off i by 1.

    1 on the diagonal; 0 elsewhere for surgical steering. Not finite for a v_i that does not change its own read-off.

    Args:
        readers: rows r_j.
        steering: rows v_i, one for each reader.
    """
    changed = wide(steering) @ wide(readers).mT
    return (changed / changed.diagonal()[:, None]).to(readers.dtype)


@shielded
def optimal_probe(
    features: Float[Tensor, "feature d"],
    covariance: Float[Tensor, "_ _"] | None = None,
    mean: Float[Tensor, " _"] | None = None,
) -> Probe:
    """The linear probe of least E[(z_i − ẑ_i)²], from the features and the distribution of their values.

    P = C F (FᵀCF)⁺ and R²_i = (P F C)_ii / C_ii, with C = Cov(z). For C = σ²I the probes are the duals and
    R²_i = f_iᵀ(FᵀF)⁺f_i, which sums to the rank of F.

    Args:
        features: rows f_i.
        covariance: covariance of the values z; the identity by default.
        mean: mean of the values z, which the bias makes up for; 0 by default.

    Raises:
        InputError: shapes that do not fit, or numbers that are not finite.
    """
    rows = _wide(features, "features")
    n = len(rows)
    spread = torch.eye(n, dtype=rows.dtype) if covariance is None else _wide(covariance, "covariance")
    centre = torch.zeros(n, dtype=rows.dtype) if mean is None else wide(mean)
    if spread.shape != (n, n) or len(centre) != n:
        raise InputError(
            f"{n} features have a covariance of {n} × {n} and {n} means, not {tuple(spread.shape)} and {len(centre)}"
        )
    written = spread @ rows  # Cov(z, a)
    probe = written @ torch.linalg.pinv(rows.mT @ written, hermitian=True)
    explained = (probe * written).sum(1) / spread.diagonal()
    bias = centre - probe @ (centre @ rows)
    return Probe(*(x.to(features.dtype) for x in (probe, bias, explained)))


@shielded
def linear_probe(x: Float[Tensor, "row d"], values: Float[Tensor, "_ feature"]) -> Probe:
    """The same probe, fitted to rows by least squares with an intercept; R² is of these rows.

    The shortest of the best directions, where activations do not fill their space.

    Args:
        x: activations.
        values: the value of each feature in each row.

    Raises:
        InputError: other numbers of rows, too few of them to fit anything, or numbers that are not finite.
    """
    rows, targets = _wide(x, "activations"), _wide(values, "values")
    if len(rows) != len(targets):
        raise InputError(f"{len(rows)} rows of activations and {len(targets)} rows of values")
    if len(rows) <= rows.shape[1] + 1:
        raise InputError(
            f"{len(rows)} rows fit a probe of {rows.shape[1]} dimensions and an intercept whatever the values are",
            fix=f"give more than {rows.shape[1] + 1} rows, best ten times as many",
        )
    mean_x, mean_z = rows.mean(0), targets.mean(0)
    rows, targets = rows - mean_x, targets - mean_z
    together = targets.mT @ rows
    probe = together @ torch.linalg.pinv(rows.mT @ rows, hermitian=True)
    explained = (probe * together).sum(1) / targets.square().sum(0)
    return Probe(*(t.to(x.dtype) for t in (probe, mean_z - probe @ mean_x, explained)))


@shielded
def difference_of_means(x: Float[Tensor, "row d"], on: Bool[Tensor, "_ feature"]) -> Float[Tensor, "feature d"]:
    """E[a | i on] − E[a | i off]: (E[z_i | on] − E[z_i | off]) f_i where the features are independent of each other.

    A feature whose presence goes with others' takes a share of them: Σ_j (E[z_j | i on] − E[z_j | i off]) f_j.
    Marks & Tegmark 2023, The Geometry of Truth (mass-mean probing); Belrose 2023 on what it is good for.

    Args:
        x: activations.
        on: whether each feature is on, in each row.

    Returns:
        One direction a feature; NaN for one that is on in every row, or in none.

    Raises:
        InputError: other numbers of rows, or numbers that are not finite.
    """
    rows = _wide(x, "activations")
    if len(rows) != len(on):
        raise InputError(f"{len(rows)} rows of activations and {len(on)} rows of labels")
    labels = wide(on)
    n_on, total = labels.sum(0), labels.mT @ rows
    # 0 / 0 is NaN: a mean of no rows.
    means_on, means_off = total / n_on[:, None], (rows.sum(0) - total) / (len(rows) - n_on)[:, None]
    return (means_on - means_off).to(x.dtype)


def _wide(rows: Tensor, name: str) -> Tensor:
    rows = wide(rows.detach())
    if rows.numel() == 0:
        raise InputError(f"there are no {name}: their shape is {tuple(rows.shape)}", where=name)
    if not bool(rows.isfinite().all()):
        raise InputError(f"some {name} are not finite", where=name)
    return rows
