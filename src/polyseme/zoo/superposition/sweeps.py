"""Checks of the toy model of superposition over sweeps of density and importance."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.superposition.checks import spread, variant
from polyseme.zoo.superposition.exact import (
    antipodal_loss,
    boundary,
    dropped_loss,
    expected_loss,
    sticky,
    vanished_first,
)
from polyseme.zoo.superposition.toy import REPRESENTED, Networks, SuperpositionToy, importances, initial, train
from polyseme.zoo.tools.checks import Check, Line, Value, fill, share
from polyseme.zoo.tools.geometry import dimensionality
from polyseme.zoo.tools.stack import OptimiserConfig

FORMULA = Line(
    "largest relative distance of the network's loss from the formula, {what}",
    "≤ 0.01",
    at_most=0.01,
    source="derived",
    n_unit="densities × importances",
)
END = Line(
    "density where superposition ends at importance {r:g}", "{target:.3f} ± 15%", relative=0.15, n_unit="densities"
)
_PER_FEATURE = "dimensions per feature m / ‖W‖² at p = "
IMPORTANCE = (
    Line(
        "most features left out before a less important one that is kept, over models",
        "≤ 1",
        at_most=1,
        source="computed",
    ),
    Line(_PER_FEATURE + "1", "1.00 ± 0.03", target=1, within=0.03, source="computed"),
    Line(_PER_FEATURE + "0.01", "0.385 ± 0.03", target=0.385, within=0.03, source="computed"),
)
STICKY = (
    Line("networks of the sweep with |m / ‖W‖² − ½| ≤ 0.03", "≥ 3", at_least=3),
    Line(
        "lines in the features' dimensionalities (1: yes)",
        "at ½ and at one of ¾, ⅔, ⅖, ⅜",
        at_least=1,
        n_unit="features",
    ),
)
NO_LINES = Line("lines where there can be none: {null}, share of draws", "0", at_most=0, n_unit="draws")


def phases(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Two features in one dimension: the losses of the two phases, and where training goes from one to the other."""
    grid = [(p, r) for p in (0.1, 0.3, 0.6, 1.0) for r in (0.25, 1.0, 4.0)]
    p = torch.tensor([p for p, _ in grid])
    weights = torch.tensor([(1.0, r) for _, r in grid])
    opposite, no_bias = torch.tensor([[[1.0, -1.0]]]).expand(len(grid), -1, -1), torch.zeros(len(grid), 2)
    kept = torch.tensor([[1.0, 0.0] if r <= 1 else [0.0, 1.0] for _, r in grid])
    found = (
        expected_loss(opposite, no_bias, p, weights),
        expected_loss(kept[:, None], (1 - kept) * p[:, None] / 2, p, weights),
    )
    checks: list[Check] = []
    for what, formula, measured in zip(
        ("antipodal", "with the lesser dropped"), (antipodal_loss, dropped_loss), found, strict=True
    ):
        expected = torch.tensor([formula(*pair) for pair in grid], dtype=torch.float64)
        checks.append(FORMULA.fill(Value(float((measured / expected - 1).abs().max()), len(grid)), what=what))
    for r, seen in phase_diagram(config, reporter).items():
        same = [p for p, phase in seen.items() if phase == "same"]
        where = f"same side at {', '.join(f'{p:.2f}' for p in same)}" if same else "same side nowhere"
        note = f"the best of {min(8, len(config.seeds))} networks a density; {where}"
        checks.append(END.fill(Value(edge(seen), len(seen), note=note), target=boundary(r), r=r))
    return checks


RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)


def phase_diagram(config: SuperpositionToy, reporter: Reporter) -> dict[float, dict[float, str]]:
    """Which phase the best of the seeds is in, for every importance of the second feature and every density.

    `opposite`, `same` (both represented, on one side: the confused phase), `one`, or `none` where nothing trained.
    """
    density = tuple(float(p) for p in np.geomspace(0.15, 0.95, 24))
    # Short training at small batches is enough to distinguish phases: they differ in sign, not in the third digit.
    chosen = variant(
        config, 8, n_features=2, n_hidden=1, density=density, importance=RATIOS, batch=min(256, config.batch)
    )
    stack = train(chosen, reporter, name="phase diagram")
    losses = expected_loss(stack.W, stack.b, stack.densities, importances(stack.grid.values("importance")[:, None], 2))
    losses = torch.where(losses <= stack.ceiling, losses, torch.inf)

    def best(density: float, importance: float) -> str:
        here = stack.where(density=density, importance=importance)
        first = here[int(losses[here].argmin())]
        return phase(stack.W[first, 0]) if losses[first] < torch.inf else "none"

    return {r: {p: best(p, r) for p in density} for r in RATIOS}


def phase(w: Float[Tensor, " 2"]) -> str:
    """The phase of two features' weights along one dimension."""
    if float(w.abs().min()) <= REPRESENTED * float(w.abs().max()):
        return "one"
    return "opposite" if float(w.prod()) < 0 else "same"


def edge(seen: Mapping[float, str]) -> float:
    """The density that best separates `opposite`, below it, from the other phases; NaN if one is missing or unknown."""
    density, opposite = np.array(list(seen)), np.array([phase == "opposite" for phase in seen.values()])
    if "none" in seen.values() or opposite.all() or not opposite.any():
        return math.nan
    wrong = [int((~opposite[:cut]).sum() + opposite[cut:].sum()) for cut in range(1, len(density))]
    cut = int(np.argmin(wrong)) + 1
    return math.sqrt(density[cut - 1] * density[cut])


def importance(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """n = 20, m = 5, I = 0.7ⁱ, nine densities: what is represented is a prefix of the order of importance."""
    density = tuple(float(p) for p in np.geomspace(1, 0.01, 9))
    chosen = variant(config, 4, n_features=20, n_hidden=5, importance=(0.7,), density=density)
    stack = train(chosen, reporter, name="importances")
    kept = stack.vectors.norm(dim=-1) > REPRESENTED
    gone = [vanished_first(row) for row in kept[stack.trained].tolist()]
    per_feature = _per_feature(stack)
    means = [float(kept[stack.densities == p].sum(1).float().mean()) for p in density]
    each = ", ".join(f"{of:.1f} at p = {p:.2g}" for p, of in zip(density, means, strict=True))
    dense, sparse = (
        per_feature[stack.trained & (stack.densities == torch.tensor(p))] for p in (density[0], density[-1])
    )
    if stack.unmeasured:
        return fill(IMPORTANCE, (), stack.unmeasured)
    first = Value(max(gone), len(gone), note=f"{sum(gone)} in all; kept {each}{stack.left_out}")
    return fill(IMPORTANCE, (first, spread(dense), spread(sparse)))


def _per_feature(stack: Networks) -> Float[Tensor, " network"]:
    """D* = m / ‖W‖²_F."""
    return stack.config.n_hidden / stack.W.square().sum((-2, -1))


def sweep(config: SuperpositionToy) -> SuperpositionToy:
    """The released notebook's sweep: n = 200, m = 20, p = 20^(−k/19), of the first seed."""
    density = tuple(20.0 ** (-k / 19) for k in range(20))
    return variant(
        config, 1, n_features=200, n_hidden=20, density=density, optimiser=OptimiserConfig(steps=10_000, lr=1e-3)
    )


def stickiness(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Dimensionalities stick at fractions over a sweep of density; values of no network fail the same test."""
    return sticky_checks(train(sweep(config), reporter, name="stickiness"))


def sticky_checks(stack: Networks) -> list[Check]:
    """The checks of `stickiness` on a sweep; networks that did not train are left out and named."""
    trained, ceilings = stack.trained, torch.as_tensor(stack.ceiling).tolist()
    values = dimensionality(stack.vectors)[trained].flatten().double().numpy()
    levels = ((_per_feature(stack) - 0.5).abs() <= 0.03)[trained]
    each = zip(stack.densities.tolist(), stack.loss.tolist(), ceilings, trained.tolist(), strict=True)
    those = ", ".join(f"p = {p:.3g} ({loss:.3g} > {ceiling:.3g})" for p, loss, ceiling, ok in each if not ok)
    left_out = f"left out: {stack.untrained}: {those}" if those else ""
    before = dimensionality(initial(stack.config)[0].mT).flatten().double().numpy()
    rng = np.random.default_rng(derive_seed(stack.grid.seeds[0], "stickiness nulls"))
    nulls = {
        "untrained": [before],
        "blurred by ±0.05": [values + rng.uniform(-0.05, 0.05, len(values)) for _ in range(100)],
        "uniform": [rng.uniform(0, 1, len(values)) for _ in range(100)],
    }
    if stack.unmeasured:
        return fill(STICKY, (), stack.unmeasured)
    found = (
        Value(int(levels.sum()), len(levels), note=left_out),
        Value(float(sticky(values)), len(values), note=left_out),
    )
    passed = {name: share([sticky(some) for some in drawn]) for name, drawn in nulls.items()}
    return fill(STICKY, found) + [NO_LINES.fill(of, null=name) for name, of in passed.items()]
