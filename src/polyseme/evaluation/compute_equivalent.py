"""How large a plain model predicts as well as the patched one: read off a measured ladder, never beyond its ends."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation.metrics import METRICS
from polyseme.networks.ladders import Rung, check_rungs


def compute_equivalent(
    ladder: Sequence[Rung], patched: MetricRecord, *, clean: MetricRecord | None = None, n_parameters: int | None = None
) -> MetricRecord:
    """The parameters of the plain model whose cross-entropy equals the patched one.

    Between rungs log N is linear in CE. Where a larger rung has the higher CE, both are pooled to their mean
    (isotonic regression) and `details.isotonic` is true; the smallest of several sizes with one CE is taken. Beyond the
    ladder's ends the value is NaN and `details.bound` names the side. It is also NaN where the tokens are harder or
    easier than the ladder's by more than the whole ladder spans. The interval is that of the CE, mapped.

    Args:
        ladder: at least two measured models.
        patched: `ce_patched`, nats/token.
        clean: `ce_clean` of the same tokens. With `n_parameters`, the patched CE is moved by what this sample of
            tokens is harder than the ladder's: the ladder's CE at `n_parameters` less `clean`.
        n_parameters: size of the patched network, itself within the ladder.

    Raises:
        InputError: fewer than two sizes, a size that is not positive or a CE that is not finite; or `clean` without a
            size within the ladder.
    """
    sizes, ces, isotonic = _monotone(ladder)
    shift = 0.0
    if clean is not None:
        if n_parameters is None or not sizes[0] <= n_parameters <= sizes[-1]:
            raise InputError(
                f"the network's own size ({n_parameters}) is not within the ladder ({sizes[0]:.0f} to {sizes[-1]:.0f})",
                where="compute-equivalent",
                fix="measure the network itself as a rung of the ladder",
            )
        shift = float(np.interp(np.log(n_parameters), np.log(sizes), ces)) - clean.value
    ce = patched.value + shift
    value, bound = _size(ce, sizes, ces)
    if abs(shift) > ces[0] - ces[-1]:
        value, bound = math.nan, "other text"
    interval = None
    if patched.interval is not None and bound != "other text":
        # A higher CE is a smaller model, so the ends change places.
        low, _ = _size(patched.interval.high + shift, sizes, ces)
        high, _ = _size(patched.interval.low + shift, sizes, ces)
        interval = Interval(low=low, high=high, level=patched.interval.level, method=patched.interval.method)
    return METRICS["compute_equivalent"].record(
        value,
        interval,
        n=patched.n,
        n_unit=patched.n_unit,
        scope=patched.scope,
        details={
            "ce": ce,
            "shift": shift,
            "bound": bound,
            "isotonic": isotonic,
            "ladder": [rung.model_dump(mode="json") for rung in sorted(ladder, key=lambda r: r.n_parameters)],
            "sentence": _sentence(value, bound, shift, sizes, patched, n_parameters),
        },
    )


def _monotone(ladder: Sequence[Rung]) -> tuple[Float[np.ndarray, " rung"], Float[np.ndarray, " rung"], bool]:
    """Sizes ascending with their CEs made non-increasing, and whether that changed any."""
    from scipy.optimize import isotonic_regression

    check_rungs(ladder, "compute-equivalent")
    rungs = sorted(ladder, key=lambda r: r.n_parameters)
    ces = np.array([r.ce for r in rungs])
    fitted = np.asarray(isotonic_regression(ces, increasing=False).x)
    return np.array([float(r.n_parameters) for r in rungs]), fitted, not np.array_equal(ces, fitted)


def _size(ce: float, sizes: Float[np.ndarray, " rung"], ces: Float[np.ndarray, " rung"]) -> tuple[float, str | None]:
    """The size at a CE, or NaN and the side on which it leaves the ladder."""
    if math.isnan(ce):
        return math.nan, None
    if ce > ces[0]:
        return math.nan, "below the smallest"
    if ce < ces[-1]:
        return math.nan, "above the largest"
    right = int(np.argmax(ces <= ce))
    if right == 0 or ces[right] == ce:
        return float(sizes[right]), None
    share = (ces[right - 1] - ce) / (ces[right - 1] - ces[right])
    low, high = np.log(sizes[right - 1]), np.log(sizes[right])
    return float(np.exp(low + share * (high - low))), None


def _sentence(
    value: float,
    bound: str | None,
    shift: float,
    sizes: Float[np.ndarray, " rung"],
    patched: MetricRecord,
    own: int | None,
) -> str:
    joint = patched.scope.get("site") == "joint"
    what = "with every site patched" if joint else f"with {patched.scope.get('site', 'its sites')} patched"
    model = f"the {_human(own)} model" if own else "the model"
    if bound == "other text":
        harder = "harder" if shift < 0 else "easier"
        return f"no compute-equivalent {what}: this text is {harder} than the ladder's by {abs(shift):.2g} nats/token"
    if bound == "below the smallest":
        like = f"worse than the smallest plain model measured ({_human(sizes[0])})"
    elif bound == "above the largest":
        like = f"better than the largest plain model measured ({_human(sizes[-1])})"
    elif math.isnan(value):
        return "not measured"
    else:
        like = f"like a {_human(value)} one"
    return f"{what} {model} predicts {like}"


def _human(n: float) -> str:
    """`3.4 M`, `620 k`, `0.05 M` as `50 k`: two digits and a unit."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size * 0.9995 or (unit == "M" and n >= 1e5):
            scaled = n / size
            return f"{scaled:.1f} {unit}" if scaled < 10 else f"{scaled:.0f} {unit}"
    return f"{n:.0f}"
