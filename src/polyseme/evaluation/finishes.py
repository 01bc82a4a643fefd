"""From totals over documents to a value and its interval: the finishes that the metrics of the table share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from polyseme.core.records import Interval
from polyseme.core.stats import bootstrap_documents, least_documents

Values = Float[np.ndarray, " resample"]
NOT_MEASURED = Interval(low=math.nan, high=math.nan)
NEGLIGIBLE = 0.01
"""A loss without an interval differs from another one where the difference is more than this share of it."""


@runtime_checkable
class Sums(Protocol):
    """Additive statistics of documents, or their totals over several draws of documents."""

    @property
    def sums(self) -> Float[np.ndarray, "row statistic"]:
        """One row a document, or a draw of documents."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the statistics; the last one may name a whole vector."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of the finish."""
        ...


@dataclass(frozen=True)
class Totals:
    """Sums over documents, on their way to a value; fields as in `Sums`."""

    sums: Float[np.ndarray, "resample statistic"]
    columns: tuple[str, ...]
    parameters: Mapping[str, Any]

    def combine(self, weights: Mapping[str, float]) -> Values:
        """Σ weight · column."""
        parts = [weight * self.sums[:, self.columns.index(name)] for name, weight in weights.items()]
        return np.sum(parts, axis=0)


@dataclass(frozen=True)
class Finish:
    """How totals become a value.

    Attributes:
        name: what files call it.
        value: totals to values, one a resample.
        resampling: `bootstrap` over documents, or `jackknife` (leave one document out) where the bootstrap is
            inconsistent because a resample repeats documents and so never sees as many distinct ones.
        bounds: the interval is clipped to these.
        missing: why there is no value although the sums give a number, from the sums, the seed and the number of
            resamples; empty where there is one.
    """

    name: str
    value: Callable[[Totals], Values]
    resampling: Literal["bootstrap", "jackknife"] = "bootstrap"
    bounds: tuple[float, float] = (-math.inf, math.inf)
    missing: Callable[[Sums, int, int], str] | None = None


def values_of(finish: Finish, entry: Sums) -> Callable[[np.ndarray], np.ndarray]:
    """The function from totals of the entry's columns (last axis), over any leading axes, to values."""

    def values(totals: Float[np.ndarray, "*batch statistic"]) -> Float[np.ndarray, "*batch"]:
        flat = Totals(totals.reshape(-1, totals.shape[-1]), entry.columns, entry.parameters)
        return finish.value(flat).reshape(totals.shape[:-1])

    return values


def interval_of(
    sums: Float[np.ndarray, "document *statistic"],
    values: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]],
    finish: Finish,
    *,
    seed: int,
    n_resamples: int,
    clip: bool = True,
) -> tuple[float, Interval]:
    """A value and its 95% interval over documents, by the resampling its finish asks for.

    The jackknife's is θ ± t × `jackknife_error`, one document left out at a time, t of as many degrees of freedom.
    """
    if not len(sums):
        return math.nan, NOT_MEASURED
    if finish.resampling == "jackknife":
        value, interval = _jackknife(sums, values)
    else:
        value, interval = bootstrap_documents(sums, values, seed=seed, n_resamples=n_resamples)
    if not clip or math.isnan(interval.low):
        return value, interval
    low, high = finish.bounds
    return value, interval.model_copy(update={"low": max(interval.low, low), "high": min(interval.high, high)})


def _jackknife(
    sums: Float[np.ndarray, "document *statistic"],
    values: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]],
) -> tuple[float, Interval]:
    from scipy.special import stdtrit

    total = sums.sum(0)
    value, m = float(values(total)), len(sums)
    method = "jackknife over documents"
    if m < 2:
        return value, Interval(low=math.nan, high=math.nan, method=method)
    reach = float(stdtrit(m - 1, 0.975)) * float(jackknife_error(values(total - sums)))
    return value, Interval(low=value - reach, high=value + reach, method=method)


def jackknife_error(left_out: Float[np.ndarray, "part *value"]) -> Float[np.ndarray, "*value"]:
    """Standard error √((m−1)/m Σ(θ₍ᵢ₎ − θ̄)²) from the values with one of m parts left out (Efron & Stein 1981)."""
    m = len(left_out)
    return np.asarray(np.sqrt((m - 1) / m * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)))


def _divide(numerator: Values, denominator: Values) -> Values:
    """NaN where there is nothing to divide by: not measured."""
    return numerator / np.where(denominator == 0, np.nan, denominator)


def _ratio(totals: Totals) -> Values:
    """Σ wᵢ cᵢ / Σ vᵢ cᵢ for the weights w (`numerator`) and v (`denominator`) by column name."""
    return _divide(totals.combine(totals.parameters["numerator"]), totals.combine(totals.parameters["denominator"]))


def _fvu(totals: Totals) -> Values:
    """Σ‖y−ŷ‖² / (Σ‖y−c‖² − ‖Σ(y−c)‖²/n): columns n, error, square, then Σ(y−c) itself, c any fixed vector."""
    n, error, square = (totals.sums[:, i] for i in range(3))
    variation = square - _divide((totals.sums[:, 3:] ** 2).sum(-1), n)
    # A constant target leaves rounding noise instead of 0: nothing to explain, so not measured.
    return _divide(error, np.where(variation <= 1e-12 * square, 0.0, variation))


def _dead_share(totals: Totals) -> Values:
    """1 − (latents firing in two documents or more + Σ latents firing in this document only) / n_latents."""
    alive = totals.parameters["shared"] + totals.sums[:, 0]
    return 1 - alive / totals.parameters["n_latents"]


def _dense_share(totals: Totals) -> Values:
    """Share of latents whose firings (columns after n) exceed `threshold` of the n vectors."""
    density = totals.sums[:, 1:] / totals.sums[:, :1]
    return (density > totals.parameters["threshold"]).sum(-1) / totals.parameters["n_latents"]


def _nothing_to_recover(entry: Sums, seed: int, n_resamples: int) -> str:
    """Why a share of the loss that ablation costs means nothing: there is no such loss, or it is lost in its spread.

    The cost must be positive by more than half the width of its interval: the ratio's own interval is bounded where
    the cost's leaves out 0 (Fieller 1954, Some problems in interval estimation), and of use some way from there.
    With too few documents for an interval, the cost must be positive in every one of them, and their mean cost more
    than `NEGLIGIBLE` times the network's own loss.
    """
    broken = predicts_nothing(entry, seed=seed, n_resamples=n_resamples)
    if broken:
        return f"{broken}, so there is no loss to recover"
    cost = _per_token(entry, entry.parameters["denominator"])
    value, interval = _mean(cost, seed=seed, n_resamples=n_resamples)
    costs = f"the ablation costs {_nats(entry, value, interval)}"
    if value <= 0 or interval.low <= (interval.high - interval.low) / 2:
        return f"{costs}, so there is no loss to recover"
    if math.isnan(value) or len(entry.sums) >= least_documents():
        return ""
    own = _own_loss(entry, seed=seed, n_resamples=n_resamples)
    if own is not None and value <= NEGLIGIBLE * own[0]:
        return f"{costs}, at most {NEGLIGIBLE:.0%} of the network's own {own[0]:.2f}, so no loss to recover is shown"
    free = int((_ratio(cost) <= 0).sum())
    return f"{costs}, and nothing in {free} of them, so no loss to recover is shown" if free else ""


def predicts_nothing(entry: Sums, *, seed: int = 0, n_resamples: int = 1000) -> str:
    """Why losses of this network are not informative: it predicts no better than a uniform guess. Empty where it does.

    The upper end of its loss's interval must lie below ln V; with too few documents for an interval, the loss itself
    must, by more than `NEGLIGIBLE` times ln V.

    Args:
        entry: a metric with a column `ce_clean` and the parameter `uniform`, the loss ln V of a uniform guess.
        seed: seed of the resampling.
        n_resamples: bootstrap replicates.
    """
    uniform = entry.parameters.get("uniform")
    own = _own_loss(entry, seed=seed, n_resamples=n_resamples)
    if uniform is None or own is None:
        return ""
    value, interval = own
    highest = value + NEGLIGIBLE * uniform if math.isnan(interval.high) else max(value, interval.high)
    if highest < uniform or math.isnan(value):
        return ""
    better = "no better" if value >= uniform else "not shown to be better"
    loss = f"the network's own loss of {_nats(entry, value, interval)}"
    return f"{loss} is {better} than a uniform guess (ln V = {uniform:.2f} nats)"


def _own_loss(entry: Sums, *, seed: int, n_resamples: int) -> tuple[float, Interval] | None:
    """The loss of the unedited network per token; None where the entry does not hold it."""
    if "ce_clean" not in entry.columns:
        return None
    return _mean(_per_token(entry, {"ce_clean": 1.0}), seed=seed, n_resamples=n_resamples)


def _per_token(entry: Sums, weights: Mapping[str, float]) -> Totals:
    """Each document's sums, to be finished to Σ weight · column per token."""
    return Totals(entry.sums, entry.columns, {"numerator": weights, "denominator": {"n": 1.0}})


def _mean(entry: Totals, *, seed: int, n_resamples: int) -> tuple[float, Interval]:
    return interval_of(entry.sums, values_of(RATIO, entry), RATIO, seed=seed, n_resamples=n_resamples)


def _nats(entry: Sums, value: float, interval: Interval) -> str:
    """A mean loss with its interval, or with the reason why it has none."""

    def written(x: float) -> str:
        return (f"{x:.2f}" if x == 0 or abs(x) >= 0.1 else f"{x:.2g}").replace("-", "−")

    n = len(entry.sums)
    if n < least_documents():
        return f"{written(value)} nats/token ({n} document{'s' if n > 1 else ''}, too few for an interval)"
    bounds = "" if math.isnan(interval.low) else f" [{written(interval.low)}, {written(interval.high)}]"
    return f"{written(value)}{bounds} nats/token"


RATIO = Finish("ratio", _ratio)
RECOVERED = Finish("recovered", _ratio, missing=_nothing_to_recover)
FVU = Finish("fvu", _fvu, bounds=(0.0, math.inf))
DEAD_SHARE = Finish("dead_share", _dead_share, resampling="jackknife", bounds=(0.0, 1.0))
DENSE_SHARE = Finish("dense_share", _dense_share, bounds=(0.0, 1.0))
