"""What the toy model of superposition is held against over sweeps of density and importance."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.superposition.checks import ELHAGE, mean_check, variant
from polyseme.zoo.superposition.exact import (
    antipodal_loss,
    boundary,
    dropped_loss,
    expected_loss,
    sticky,
    vanished_first,
)
from polyseme.zoo.superposition.networks import REPRESENTED, Stack, SuperpositionConfig, initial, train
from polyseme.zoo.tools.checks import Check, check, not_measured, share_interval
from polyseme.zoo.tools.geometry import dimensionality
from polyseme.zoo.tools.stack import OptimiserConfig


def phases(config: SuperpositionConfig, reporter: Reporter) -> Sequence[Check]:
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
    lines: list[Check] = []
    for what, formula, measured in (
        ("antipodal", antipodal_loss, found[0]),
        ("with the lesser dropped", dropped_loss, found[1]),
    ):
        expected = torch.tensor([formula(*pair) for pair in grid], dtype=torch.float64)
        lines.append(
            check(
                f"largest relative distance of the network's loss from the formula, {what}",
                float((measured / expected - 1).abs().max()),
                reference="≤ 0.01",
                source="derived",
                paper=ELHAGE,
                at_most=0.01,
                n=len(grid),
                n_unit="densities × importances",
            )
        )
    diagram = phase_diagram(config, reporter)
    for r, seen in diagram.items():
        name, reference = f"density where superposition ends at importance {r:g}", f"{boundary(r):.3f} ± 15%"
        same = [p for p, phase in seen.items() if phase == "same"]
        note = f"same side at {', '.join(f'{p:.2f}' for p in same)}" if same else "same side nowhere"
        lines.append(
            check(
                name,
                edge(seen),
                reference=reference,
                source="proposed",
                paper=ELHAGE,
                at_least=0.85 * boundary(r),
                at_most=1.15 * boundary(r),
                n=len(seen),
                n_unit="densities",
                note=f"the best of {min(8, len(config.seeds))} networks a density; {note}",
            )
        )
    return lines


RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)


def phase_diagram(config: SuperpositionConfig, reporter: Reporter) -> dict[float, dict[float, str]]:
    """Which phase the best of the seeds is in, for every importance of the second feature and every density.

    `opposite`, `same` (both represented, on one side: the confused phase), `one`, or `none` where nothing trained.
    """
    density = tuple(float(p) for p in np.geomspace(0.15, 0.95, 24))
    # Short training at small batches tells phases apart: they differ in sign, not in the third digit.
    chosen = variant(
        config, 8, n_features=2, n_hidden=1, density=density, importance=RATIOS, batch=min(256, config.batch)
    )
    stack = train(chosen, reporter, name="phase diagram")
    importance = torch.tensor([(1.0, s.importance) for s in stack.settings])
    losses = expected_loss(stack.W, stack.b, stack.densities, importance)
    best: dict[tuple[float, float], int] = {}
    for i, s in enumerate(stack.settings):
        key = (s.importance, s.density)
        if losses[i] <= stack.ceilings[i] and (key not in best or losses[i] < losses[best[key]]):
            best[key] = i
    return {r: {p: phase(stack.W[best[r, p], 0]) if (r, p) in best else "none" for p in density} for r in RATIOS}


def phase(w: Float[Tensor, " 2"]) -> str:
    """The phase of two features' weights along one dimension."""
    if float(w.abs().min()) <= REPRESENTED * float(w.abs().max()):
        return "one"
    return "opposite" if float(w.prod()) < 0 else "same"


def edge(seen: Mapping[float, str]) -> float:
    """The density that best parts `opposite`, below it, from the other phases; NaN where one is missing or unknown."""
    density, opposite = np.array(list(seen)), np.array([phase == "opposite" for phase in seen.values()])
    if "none" in seen.values() or opposite.all() or not opposite.any():
        return math.nan
    wrong = [int((~opposite[:cut]).sum() + opposite[cut:].sum()) for cut in range(1, len(density))]
    cut = int(np.argmin(wrong)) + 1
    return math.sqrt(density[cut - 1] * density[cut])


def importance(config: SuperpositionConfig, reporter: Reporter) -> Sequence[Check]:
    """n = 20, m = 5, I = .7ⁱ, nine densities: what is represented is a prefix of the order of importance."""
    density = tuple(float(p) for p in np.geomspace(1, 0.01, 9))
    chosen = variant(config, 4, n_features=20, n_hidden=5, importance=(0.7,), density=density)
    stack = train(chosen, reporter, name="importances")
    kept = stack.vectors.norm(dim=-1) > REPRESENTED
    gone = [vanished_first(row) for row in kept[stack.trained].tolist()]
    per_feature = _per_feature(stack)
    name, reference = "most features left out before a less important one that is kept, over models", "≤ 1"
    if stack.unmeasured:
        first = not_measured(name, reference=reference, source="computed", paper=ELHAGE, why=stack.unmeasured)
    else:
        first = check(
            name,
            max(gone),
            reference=reference,
            source="computed",
            paper=ELHAGE,
            at_most=1,
            n=len(gone),
            note=f"{sum(gone)} in all; kept "
            + ", ".join(
                f"{float(kept[stack.densities == p].sum(1).float().mean()):.1f} at p = {p:.2g}" for p in density
            )
            + stack.left_out,
        )
    dense, sparse = (
        per_feature[stack.trained & (stack.densities == torch.tensor(p))] for p in (density[0], density[-1])
    )
    return [
        first,
        mean_check("dimensions per feature m / ‖W‖² at p = 1", dense, 1.0, 0.03, digits=2, why=stack.unmeasured),
        mean_check("dimensions per feature m / ‖W‖² at p = .01", sparse, 0.385, 0.03, why=stack.unmeasured),
    ]


def _per_feature(stack: Stack) -> Float[Tensor, " network"]:
    """D* = m / ‖W‖²_F."""
    return stack.config.n_hidden / stack.W.square().sum((-2, -1))


def sweep(config: SuperpositionConfig) -> SuperpositionConfig:
    """The released notebook's sweep: n = 200, m = 20, p = 20^(−k/19), of the first seed."""
    density = tuple(20.0 ** (-k / 19) for k in range(20))
    return variant(
        config, 1, n_features=200, n_hidden=20, density=density, optimiser=OptimiserConfig(steps=10_000, lr=1e-3)
    )


def stickiness(config: SuperpositionConfig, reporter: Reporter) -> Sequence[Check]:
    """Dimensionalities stick at fractions over a sweep of density; what is no network's fails the same test."""
    return sticky_checks(train(sweep(config), reporter, name="stickiness"))


def sticky_checks(stack: Stack) -> Sequence[Check]:
    """The checks of `stickiness` on a sweep; networks that did not train are left out, and named."""
    trained = stack.trained
    values = dimensionality(stack.vectors)[trained].flatten().double().numpy()
    levels = ((_per_feature(stack) - 0.5).abs() <= 0.03)[trained]
    failed = zip(stack.settings, stack.loss.tolist(), stack.ceilings.tolist(), trained.tolist(), strict=True)
    those = ", ".join(f"p = {s.density:.3g} ({loss:.3g} > {ceiling:.3g})" for s, loss, ceiling, ok in failed if not ok)
    left_out = f"left out: {stack.untrained}: {those}" if those else ""
    W, b, *_ = initial(stack.config)
    before = dimensionality(dataclasses.replace(stack, W=W, b=b).vectors).flatten().double().numpy()
    rng = np.random.default_rng(derive_seed(stack.settings[0].seed, "stickiness nulls"))
    nulls = {
        "untrained": [before],
        "blurred by ±.05": [values + rng.uniform(-0.05, 0.05, len(values)) for _ in range(100)],
        "uniform": [rng.uniform(0, 1, len(values)) for _ in range(100)],
    }
    lines: list[Check] = []
    reference, why = "at ½ and at one of ¾, ⅔, ⅖, ⅜", stack.unmeasured
    names = ("networks of the sweep with |m / ‖W‖² − ½| ≤ .03", "lines in the features' dimensionalities (1: yes)")
    if why:
        wanted = zip(names, ("≥ 3", reference), strict=True)
        return [not_measured(name, reference=of, source="proposed", paper=ELHAGE, why=why) for name, of in wanted]
    common: dict[str, Any] = {"source": "proposed", "paper": ELHAGE}
    lines.append(
        check(names[0], int(levels.sum()), reference="≥ 3", at_least=3, n=len(levels), note=left_out, **common)
    )
    lines.append(
        check(
            names[1],
            float(sticky(values)),
            reference=reference,
            at_least=1,
            n=len(values),
            n_unit="features",
            note=left_out,
            **common,
        )
    )
    for name, drawn in nulls.items():
        passed = sum(sticky(some) for some in drawn)
        share, interval = share_interval(passed, len(drawn))
        lines.append(
            check(
                f"lines where there can be none: {name}, share of draws",
                share,
                reference="0",
                at_most=0,
                interval=interval,
                n=len(drawn),
                n_unit="draws",
                **common,
            )
        )
    return lines
