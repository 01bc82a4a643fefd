"""The variables of the data, and what each of them writes to a site.

Units belong to whoever wrote the data down, not to the network: a length in metres or in millimetres is one variable.
Every variable is therefore measured in steps of its typical distance from rest, and pointed the way it mostly goes. Nor
does the order of the columns belong to the network: variables are taken in an order that their values decide, so that
equal draws fall to equal variables, and columns that are copies of each other are one variable.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.core.progress import Progress, Silent
from polyseme.diagnosis.config import DiagnosisConfig

Array = Float[np.ndarray, "..."]
Rows = Int[np.ndarray, "..."]

MAX_VARIABLES = 1024
"""Number of input variables beyond which none counts as a feature by itself (pixels, say)."""
MAX_TOKENS = 64
"""Number of distinct tokens in the data up to which the presence of each is a variable."""
MAX_CONTRASTS = 1 << 24
"""Maximum number of values held for the changes that switching variables off makes at the site."""
AT_REST = 1e-6
"""Typical distances up to which a variable counts as being at rest."""
COPY = 1e-6
"""1 − |correlation| of two columns up to which they are one variable, written down twice."""
TWO_SIDED = 0.1
"""Ratio of the rows on a feature's rarer side to those on its commoner side from which it has both signs."""
_FAR = 3.0
"""Distances beyond this many medians count as this many, so that a single outlier does not set the unit."""


@dataclass(frozen=True)
class Written:
    """What each variable writes to the site.

    Attributes:
        names: `x3`, or `x3+` and `x3-` where the two signs of a variable write in unlike directions.
        directions: change of the site's vector per typical distance of the variable from rest, `[feature, d]`.
        resampled: the same under resampling of rows, `[resample, feature, d]`.
        values: each feature's distance from rest on the rows, in typical distances, `[row, feature]`.
        carried: the same for all that moves the site as much as a feature does, with a direction of its own or
            without, `[row, variable]`.
    """

    names: tuple[str, ...]
    directions: Float[np.ndarray, "feature d"]
    resampled: Float[np.ndarray, "resample feature d"]
    values: Float[np.ndarray, "row feature"]
    carried: Float[np.ndarray, "row variable"]

    @property
    def two_sided(self) -> Bool[np.ndarray, " feature"]:
        """Which features have values on both sides of rest, so that their directions have no sign of their own."""
        above, below = (self.values > AT_REST).sum(0), (self.values < -AT_REST).sum(0)
        return np.minimum(above, below) >= TWO_SIDED * np.maximum(np.maximum(above, below), 1)


@dataclass(frozen=True)
class Variables:
    """The variables of the data that vary, in the order of their values (`canonical_order`).

    Attributes:
        values: one column each, in the data's own unit, `[row, variable]`.
        names: `x3`, or `x3=x7` for two columns that hold one variable; `token 3` for the presence of a token.
        columns: the columns of vector inputs that hold each variable; empty for tokens.
    """

    values: Float[np.ndarray, "row variable"]
    names: tuple[str, ...]
    columns: tuple[Rows, ...]


def canonical_order(values: Float[np.ndarray, "row column"], rng: np.random.Generator) -> Rows:
    """An order of the columns that depends on what they hold, not on their places, units, zeros or signs.

    They are sorted by |Σ_r g_r z_r|, with z a column at mean 0 and variance 1, and g Gaussian, one draw for each row.
    """
    g, varies = rng.standard_normal(len(values)), _varies(values)
    key = np.abs(g @ values - g.sum() * values.mean(0)) / np.where(varies, values.std(0), 1)
    return np.argsort(np.where(varies, key, np.inf), kind="stable")


def _varies(values: Float[np.ndarray, "row column"]) -> Bool[np.ndarray, " column"]:
    # The deviation of a constant that is no binary fraction is rounding, and not 0.
    return values.max(0) > values.min(0)


def variables_of(inputs: Tensor, rng: np.random.Generator) -> Variables | None:
    """Coordinates of vector inputs; presence of each token where the data have few; None for inputs of other kinds."""
    if inputs.dim() != 2:
        return None
    if inputs.is_floating_point():
        if inputs.shape[1] > MAX_VARIABLES:
            return None
        values = inputs.detach().cpu().double().numpy()
        names = [f"x{i}" for i in range(values.shape[1])]
    else:
        known = inputs.unique()
        if len(known) > MAX_TOKENS:
            return None
        values = np.stack([(inputs == token).any(-1).cpu().double().numpy() for token in known], axis=1)
        names = [f"token {token}" for token in known.tolist()]
    order = canonical_order(values, rng)
    groups = _copies(values[:, order])
    columns = [np.sort(order[group]) for group in groups]
    return Variables(
        values=values[:, [order[group[0]] for group in groups]],
        names=tuple("=".join(names[i] for i in group) for group in columns),
        columns=tuple(columns) if inputs.is_floating_point() else (),
    )


def _copies(values: Float[np.ndarray, "row column"]) -> list[Rows]:
    """The columns that vary, with those that are equal up to unit, zero and sign in one group."""
    varying = np.flatnonzero(_varies(values))
    z = values[:, varying] - values[:, varying].mean(0)
    z /= np.linalg.norm(z, axis=0)
    alike = (np.abs(z.T @ z) >= 1 - COPY) | np.eye(len(varying), dtype=bool)
    first = alike.argmax(0) if len(varying) else varying
    return [varying[first == i] for i in np.unique(first)]


def resting(column: Float[np.ndarray, " row"]) -> float:
    """The value of a variable at rest: the commonest one, if at least a fifth of the rows have it, else the mean."""
    values, counts = np.unique(column, return_counts=True)
    commonest = int(counts.argmax())
    return float(values[commonest]) if counts[commonest] >= 0.2 * len(column) else float(column.mean())


def typical(away: Float[np.ndarray, " row"]) -> float:
    """A variable's typical distance from rest: the root mean square over the rows where it is on, 0 if there are none.

    Distances beyond three medians count as three. It does not depend on how often the variable is on, so that a rare
    variable is not taken for a weak one.
    """
    size = np.abs(away)
    size = size[size > 0]
    if not len(size):
        return 0.0
    middle = float(np.median(size))
    size = size[size > AT_REST * middle]
    return middle * float(np.sqrt((np.minimum(size / middle, _FAR) ** 2).mean()))


def write(
    read: Callable[[Tensor], Array],
    inputs: Tensor,
    variables: Variables,
    vectors: Array,
    config: DiagnosisConfig,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Written | None:
    """What each variable writes to a site: seen switched off one at a time, or regressed on where they are tokens.

    Args:
        read: maps inputs to the site's vectors, `[row, d]`.
        inputs: the data, `[row, ...]`.
        variables: the variables of the inputs, as `variables_of` gives them.
        vectors: the site's vectors, `[row, d]`.
        config: the configuration of the diagnosis.
        rng: draws the rows on which a variable is switched off.
        progress: receives the number of variables done.
    """
    progress = progress or Silent()
    n_variables = len(variables.names)
    if n_variables == 0:
        return None
    if not variables.columns:
        found = _regressed(variables, vectors, config, rng)
        progress.update(n_variables)
        return found
    n_contrasts = max(16, min(config.n_contrasts, MAX_CONTRASTS // (n_variables * vectors.shape[1])))
    # The same rows come first for every variable, so that none depends on how many others there are.
    priority = rng.permutation(len(vectors))
    changes: list[_Change] = []

    def change(name: str, rows: Rows, values: Array, columns: Rows, rest: Tensor) -> _Change:
        changed = inputs[torch.from_numpy(rows)].clone()
        changed[:, columns] = rest
        return _Change(name, vectors[rows] - read(changed), rows, values)

    for i, (name, columns) in enumerate(zip(variables.names, variables.columns, strict=True)):
        progress.update(i)
        column = variables.values[:, i]
        rest = resting(column)
        at_rest = np.flatnonzero(column == rest)
        off = inputs[int(at_rest[0]), columns] if len(at_rest) else wide(inputs[:, columns]).mean(0).to(inputs)
        away, sign = _pointed(column - rest)
        rows = _some(np.flatnonzero(np.abs(away) > AT_REST), n_contrasts, priority)
        if len(rows) == 0:
            continue
        whole = change(name, rows, away, columns, off)
        sides = [_some(np.flatnonzero(side * away > AT_REST), n_contrasts, priority) for side in (1, -1)]
        if min(map(len, sides)) < min(16, n_contrasts):
            changes.append(whole)
            continue
        parts: list[_Change] = []
        for side, part in zip((1, -1), sides, strict=True):
            values = np.maximum(side * away, 0)
            label = f"{name}{'+' if side * sign > 0 else '-'}"
            parts.append(change(label, part, values / typical(values), columns, off))
        # ReLU(x) and ReLU(−x) carry a variable's two signs apart: two features, that never fire together.
        apart = _cosine(parts[0].slope, -parts[1].slope) < 0.5
        changes += parts if apart else [whole]
    progress.update(n_variables)
    if not changes:
        return None
    directions = np.stack([change.slope for change in changes])
    norms = np.linalg.norm(directions, axis=1)
    if norms.max() == 0:
        return None
    # A variable may move the site without a direction of its own: x in xy, where y has both signs.
    moved = np.array([change.moved for change in changes])
    kept = np.flatnonzero(norms >= config.represented * norms.max())
    carried = np.flatnonzero(moved >= config.represented * moved.max())
    n = len(vectors)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=config.n_resamples)
    return Written(
        names=tuple(changes[i].name for i in kept),
        directions=directions[kept],
        resampled=np.stack([changes[i].resampled(counts) for i in kept], axis=1),
        values=np.stack([changes[i].values for i in kept], axis=1),
        carried=np.stack([changes[i].values for i in carried], axis=1),
    )


@dataclass(frozen=True)
class _Change:
    """What switching one feature off changes at the site.

    Attributes:
        name: the name of the feature.
        delta: the site's vectors less those with the feature at rest, `[contrast, d]`.
        rows: the rows that these are, `[contrast]`.
        values: the feature's value on every row, `[row]`.
    """

    name: str
    delta: Array
    rows: Rows
    values: Array

    @property
    def dose(self) -> Array:
        """The feature's value on the rows on which it was switched off, `[contrast]`."""
        return self.values[self.rows]

    @property
    def slope(self) -> Array:
        """Slope of the regression of the change on the dose, through the origin."""
        return (self.delta * self.dose[:, None]).sum(0) / (self.dose**2).sum()

    @property
    def moved(self) -> float:
        """How far a typical value moves the site, in any direction."""
        return float(np.sqrt((self.delta**2).sum() / (self.dose**2).sum()))

    def resampled(self, counts: Int[np.ndarray, "resample row"]) -> Array:
        """Slopes with every row counted so often, `[resample, d]`; a sample with none of the contrasts has them all."""
        weights = counts[:, self.rows]
        weights = np.where(weights.any(1, keepdims=True), weights, 1)
        return weights @ (self.delta * self.dose[:, None]) / (weights @ self.dose**2)[:, None]


def _pointed(away: Float[np.ndarray, " row"]) -> tuple[Float[np.ndarray, " row"], float]:
    """A variable in typical distances, with its long side up, and the sign it was turned by."""
    scale = typical(away)
    if scale == 0:
        return away, 1.0
    away = away / scale
    sign = -1.0 if float((np.clip(away, -_FAR, _FAR) ** 3).sum()) < 0 else 1.0
    return sign * away, sign


def _regressed(
    variables: Variables, vectors: Array, config: DiagnosisConfig, rng: np.random.Generator
) -> Written | None:
    x = variables.values

    def fit(rows: Rows) -> Array:
        a, b = x[rows] - x[rows].mean(0), vectors[rows] - vectors[rows].mean(0)
        return np.linalg.solve(a.T @ a + 1e-6 * len(rows) * np.eye(x.shape[1]), a.T @ b)

    n = len(x)
    directions = fit(np.arange(n))
    norms = np.linalg.norm(directions, axis=1)
    if norms.max() == 0:
        return None
    kept = np.flatnonzero(norms >= config.represented * norms.max())
    resampled = np.stack([fit(rng.integers(0, n, n))[kept] for _ in range(config.n_resamples)])
    return Written(
        names=tuple(variables.names[i] for i in kept),
        directions=directions[kept],
        resampled=resampled,
        values=x[:, kept],
        carried=x[:, kept],
    )


def _some(rows: Rows, n: int, priority: Rows) -> Rows:
    """At most n of the rows: those of the lowest priority numbers."""
    return rows if len(rows) <= n else np.sort(rows[np.argsort(priority[rows])[:n]])


def _cosine(a: Array, b: Array) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 1.0
