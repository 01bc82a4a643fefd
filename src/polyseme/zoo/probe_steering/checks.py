"""Checks of probe and steering directions: closed forms to 1e-6, samples to 0.01; their figure."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations.memory import TensorSource
from polyseme.causal import CausalConfig, Meanings, causal_effects
from polyseme.causal.directions import difference_of_means, duals, leaks, linear_probe, optimal_probe, surgical_steering
from polyseme.core.binding import Binding
from polyseme.core.progress import Reporter
from polyseme.core.records import Interval
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import ReLUConfig, SparseDictionary
from polyseme.networks import add, load_network
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.probe_steering.toy import (
    ARRANGEMENTS,
    SITE,
    Arrangement,
    NextState,
    ProbeSteeringToy,
    ReadOff,
    all_states,
    coupled,
    exact_ce,
    expected_kl,
    features,
    predicted_windows,
    states,
    true_firings,
)
from polyseme.zoo.tools.checks import Check, Line, Value, fill, mean
from polyseme.zoo.tools.exact import Directions, ShortTraining, fvu, l1_coefficient, start_without_bias
from polyseme.zoo.tools.figures import panels

EXACT, SAMPLED = 1e-6, 0.01


def _exact(
    name: str, target: float = math.nan, *, reference: str = "{target:.4g}", n_unit: str = "arrangements"
) -> Line:
    return Line(name, f"{reference} (± 1e-6)", target=target, within=EXACT, source="derived", n_unit=n_unit)


def _sampled(name: str, target: float = math.nan, *, n_unit: str = "samples") -> Line:
    return Line(name, f"{{target:.4g}} (± {SAMPLED:g})", target=target, within=SAMPLED, source="derived", n_unit=n_unit)


PAIR_DUALS = _exact("duals of the {where}, largest difference", 0, reference="(1, {first:.3f}), (0, {second:.3f})")
PAIR = (
    _exact("optimal probes of the {where} from its duals", 0),
    _exact("leak of steering along the probe, {where}"),
    _exact("leak of steering along the feature, {where}", 0),
    _exact("cos(probe, feature), {where}"),
    _exact("surgical steering from features, read with duals, {where}", 0),
    _exact("surgical steering from duals of the read-off basis, read with features, {where}", 0),
)
POLYGON = (
    _exact("largest |R² − 2/k| of a probe, {where}", 0),
    _exact("R² of a probe, {where}"),
    _exact("probes from (2/k) × features, {where}", 0),
)
CORNER = _exact("leak to the corner {step} further, {where}", reference="{target:.3f}")
CROWDED = _exact("Σ R² of {n} random features in {d} dimensions")
ORTHOGONAL = _exact("orthogonal features: dual, probe and steering vector from the feature", 0)
READ = _sampled("{what}, largest difference", 0)
STEERED = _exact("read-offs of the steered network from the leaks, {shape}", 0)
KL = _exact("KL of removing a feature at each token, largest difference, {name}", 0, n_unit="interventions")
CE = _exact("ΔCE of removing a feature at each token, largest difference, {name}", 0, n_unit="interventions")
EFFECT = _sampled("causal effect of the first feature over drawn tokens, nats, {name}", n_unit="tokens")
DICTIONARY = (
    _sampled("smallest cosine of a write direction with its feature, {angle:g}° pair", 1, n_unit="dictionaries"),
    _sampled("smallest cosine of a read direction with its feature's dual, {angle:g}° pair", 1, n_unit="dictionaries"),
)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def analytic(config: ProbeSteeringToy, _: Reporter) -> list[Check]:
    """Directions computed from the features alone."""
    return [*_pair(config), *_polygon(config), *_any(config)]


def _pair(config: ProbeSteeringToy) -> list[Check]:
    theta = math.radians(config.angle)
    cot, cosec = math.cos(theta) / math.sin(theta), 1 / math.sin(theta)
    rows, where = features(config, "pair"), f"{config.angle:g}° pair"
    dual, probe = duals(rows), optimal_probe(rows)
    closed = torch.tensor([[1.0, -cot], [0.0, cosec]], dtype=torch.float64)
    cosine = float(torch.nn.functional.cosine_similarity(probe.directions, rows)[0])
    found = (
        (_apart(probe.directions, closed), None),
        (float(leaks(dual, dual)[0, 1]), -math.cos(theta)),
        (float(leaks(dual, rows)[0, 1]), None),
        (cosine, math.sin(theta)),
        (_apart(surgical_steering(dual), rows), None),
        (_apart(surgical_steering(rows), closed), None),
    )
    return [
        PAIR_DUALS.fill(Value(_apart(dual, closed)), where=where, first=-cot, second=cosec),
        *(line.fill(Value(v), target=target, where=where) for line, (v, target) in zip(PAIR, found, strict=True)),
    ]


def _polygon(config: ProbeSteeringToy) -> list[Check]:
    k = config.n_features
    rows, where = features(config, "polygon"), f"regular {k}-gon"
    probe = optimal_probe(rows)
    leak = leaks(probe.directions, rows)
    found = (
        (_apart(probe.r2, torch.full_like(probe.r2, 2 / k)), None),
        (float(probe.r2[0]), 2 / k),
        (_apart(probe.directions, 2 / k * rows), None),
    )
    checks = [line.fill(Value(v), target=target, where=where) for line, (v, target) in zip(POLYGON, found, strict=True)]
    for step in range(1, k // 2 + 1):
        target = math.cos(2 * math.pi * step / k)
        checks.append(CORNER.fill(Value(float(leak[0, step])), target=target, where=where, step=step))
    return checks


def _any(config: ProbeSteeringToy) -> list[Check]:
    """Random features, twice as many as dimensions, and orthogonal ones."""
    seed, d = config.seeds[0], 6
    crowded = torch.randn(2 * d, d, generator=make_generator(seed, "crowded"), dtype=torch.float64)
    right = torch.linalg.qr(crowded).Q.mT * torch.linspace(0.5, 2, d, dtype=torch.float64)[:, None]
    readers = (duals(right), optimal_probe(right).directions, surgical_steering(duals(right)), right)
    unit = [torch.nn.functional.normalize(vectors, dim=1) for vectors in readers]
    return [
        CROWDED.fill(Value(float(optimal_probe(crowded).r2.sum())), target=d, n=2 * d, d=d),
        ORTHOGONAL.fill(Value(max(_apart(vectors, unit[-1]) for vectors in unit))),
    ]


def sampled(config: ProbeSteeringToy, _: Reporter) -> list[Check]:
    """The same directions from rows of data, and the effect of steering on the network's read-offs."""
    found: dict[str, list[float]] = {}
    pair, corners = features(config, "pair"), features(config, "polygon")
    spread = torch.eye(2, dtype=torch.float64) / 2 + 0.5
    for seed in config.seeds:
        g = make_generator(seed, "sampled")
        for name, rows in (("pair", pair), (f"{len(corners)}-gon", corners)):
            z = states(config, len(rows), config.n_samples, g)
            x = load_network(ReadOff(rows, rows), example_inputs=z[:2]).read(z, [SITE])[SITE]
            fitted, best, means = linear_probe(x, z), optimal_probe(rows), difference_of_means(x, z > 0)
            found.setdefault(f"least-squares probes, {name}", []).append(_apart(fitted.directions, best.directions))
            found.setdefault(f"R² of the probes, {name}", []).append(_apart(fitted.r2, best.r2))
            found.setdefault(f"differences of means from features, {name}", []).append(_apart(means, rows))
        # P(j on | i on) − P(j on | i off) is their correlation, 1/2.
        z = coupled(config, config.n_samples, g)
        shared = difference_of_means(z @ pair, z > 0)
        found.setdefault("differences of means of correlated features from f + f'/2", []).append(
            _apart(shared, spread @ pair)
        )
    checks = [READ.fill(mean(values, f"at most {max(values):.1e}"), what=what) for what, values in found.items()]
    return [*checks, _steered(config, "pair"), _steered(config, "polygon")]


def _steered(config: ProbeSteeringToy, shape: Arrangement) -> Check:
    """Add each feature and each probe to the network's site, and compare the change of every read-off with `leaks`."""
    rows = features(config, shape)
    readers = optimal_probe(rows).directions
    network = load_network(ReadOff(rows, readers), example_inputs=torch.zeros(1, len(rows), dtype=torch.float64))
    z = all_states(len(rows))
    clean = network.logits(z)
    worst = 0.0
    for steering in (rows, readers):
        expected = leaks(readers, steering)
        for i, vector in enumerate(steering):
            own = float(vector @ readers[i])
            changed = (network.run(z, edits={SITE.path: add(vector / own)}).logits - clean).double()
            worst = max(worst, _apart(changed, expected[i].expand_as(changed)))
    return STEERED.fill(Value(worst), shape=shape)


def effects(config: ProbeSteeringToy, reporter: Reporter) -> list[Check]:
    """polyseme's causal effect of each feature on a language model whose predictions are known in closed form."""
    pair, corners = features(config, "pair"), features(config, "polygon")
    dual, probe = duals(pair), optimal_probe(corners).directions
    cases = [
        (f"{config.angle:g}° pair", pair, dual, pair),
        (f"{config.angle:g}° pair, removed along its probes", pair, dual, dual),
        (f"regular {config.n_features}-gon", corners, probe, corners),
    ]
    return [line for case in cases for line in _effect(config, reporter, *case)]


def _effect(
    config: ProbeSteeringToy, reporter: Reporter, name: str, rows: Tensor, readers: Tensor, written: Tensor
) -> list[Check]:
    seed = derive_seed(config.seeds[0], "effects", name)
    change, removed = rows @ readers.mT, written @ readers.mT
    windows = predicted_windows(config, change, make_generator(seed, "windows"))
    firings = true_firings(windows, len(rows))
    network = load_network(NextState(rows, readers), example_inputs=torch.zeros(1, 2, dtype=torch.int64), causal=True)
    measured = causal_effects(
        network,
        windows,
        Binding.at(SITE),
        Directions(written),
        firings,
        Meanings.learn(firings, windows, 2 ** len(rows)),
        config=CausalConfig(
            n_samples=windows.n_tokens,
            nulls=("isotropic",),
            n_directions=2,
            horizon=0,
            n_resamples=200,
            tokens_per_pass=2**15,
        ),
        seed=seed,
        reporter=reporter,
    )
    latent = torch.from_numpy(measured.sample_latent.astype(np.int64))
    at = measured.sample_row
    token = windows.tokens[firings.window[at], firings.position[at]].astype(np.int64)
    following = windows.tokens[firings.window[at], firings.position[at] + 1].astype(np.int64)
    bits = all_states(len(rows))
    state, after = bits[torch.from_numpy(token)], bits[torch.from_numpy(following)]
    kl, ce = torch.empty(len(latent), dtype=torch.float64), torch.empty(len(latent), dtype=torch.float64)
    for i in range(len(rows)):
        mine = latent == i
        kl[mine] = expected_kl(state[mine], change, removed[i])
        ce[mine] = exact_ce(state[mine], after[mine], change, removed[i])
    kl_apart = _apart(torch.from_numpy(measured.sample_kl).double(), kl)
    ce_apart = _apart(torch.from_numpy(measured.sample_loss).double(), ce)
    expected = float(kl[latent == 0].mean())
    loss = measured.sizes["loss"]
    interval = Interval(low=float(loss.low[0]), high=float(loss.high[0]), level=0.95, method="bootstrap over windows")
    effect = Value(float(loss.value[0]), int(measured.n_tokens[0]), interval)
    return [
        KL.fill(Value(kl_apart, len(latent)), name=name),
        CE.fill(Value(ce_apart, len(latent)), name=name),
        EFFECT.fill(effect, target=expected, name=name),
    ]


def dictionary(config: ProbeSteeringToy, reporter: Reporter) -> list[Check]:
    """A ReLU dictionary of two latents on the pair: as L1 → 0 it writes the features and reads their duals."""
    return read_and_written(config, ShortTraining(steps=6_000, rows=100_000), 1e-2, reporter)


def read_and_written(
    config: ProbeSteeringToy, training: ShortTraining, penalty: float, reporter: Reporter
) -> list[Check]:
    """Cosines of a trained dictionary's directions to the closed forms.

    Among all pairs of vectors whose cone holds the data, the features have the least Σ f‖w‖, so L1 selects them.

    Args:
        config: the pair and the seeds.
        training: how the dictionaries are trained.
        penalty: the L1 penalty, in the data's own units.
        reporter: receives progress updates.
    """
    rows = features(config, "pair").float()
    found: list[tuple[float, float]] = []
    unexplained: list[float] = []
    for seed in config.seeds:
        g = make_generator(seed, "dictionary")
        z = states(config, 2, training.rows, g).float() * torch.rand(training.rows, 2, generator=g)
        x = z @ rows
        made = ReLUConfig(n_latents=2, coefficient=l1_coefficient(penalty, x)).build(2, seed=derive_seed(seed, "built"))
        assert isinstance(made, SparseDictionary)
        # With the data's mean in b_dec, a latent may stand for a feature's absence, which no cone from 0 holds.
        start_without_bias(made, x)
        fit(
            [Job("pair", made, Binding.at("hidden"), seed)],
            TensorSource({"hidden": x}, seed=seed),
            TrainingConfig(n_tokens=training.steps * training.batch, batch_size=training.batch, lr=training.lr),
            reporter=reporter,
        )
        unexplained.append(fvu(made, x))
        found.append(_matched(made, rows))
    worst = max(unexplained)
    why = (
        f"a dictionary of two latents leaves FVU {worst:.3f} on two features: it did not train" if worst > 0.05 else ""
    )
    values = [mean(of, f"at least {of.min():.4f}; L1 {penalty:g}; FVU at most {worst:.1e}") for of in np.array(found).T]
    return fill(DICTIONARY, values, why, angle=config.angle)


def _matched(made: SparseDictionary, rows: Float[Tensor, "feature d"]) -> tuple[float, float]:
    """Smallest cosine of the write directions with the features, and of the read directions with their duals."""
    unit = torch.nn.functional.normalize
    written, read = unit(made.write_directions()), unit(made.read_directions())
    order = (written @ unit(rows).T).argmax(0)
    writes = (written[order] * unit(rows)).sum(1)
    reads = (read[order] * unit(duals(rows))).sum(1)
    return float(writes.min()), float(reads.min())


def leak_summary(config: ProbeSteeringToy, shape: Arrangement) -> str:
    """One line on an arrangement, for its figure."""
    rows = features(config, shape)
    probe = optimal_probe(rows).directions
    if shape == "pair":
        along = float(leaks(probe, probe)[0, 1])
        return f"{config.angle:g}° pair: steering along the probe leaks {along:.3f},\nalong the feature 0"
    reached = ", ".join(f"{x:.3f}" for x in leaks(probe, rows)[0, 1 : config.n_features // 2 + 1].tolist())
    return (
        f"regular {config.n_features}-gon: probe ∥ feature, R² = {2 / config.n_features:.3f};\nsteering leaks {reached}"
    )


def directions_figure(config: ProbeSteeringToy, _: Reporter) -> Any:
    """Features, probes and steering vectors of the pair and the polygon, and what each leaks."""
    figure, axes = panels(2, width=9, height=4.4)
    for axis, shape in zip(axes, ARRANGEMENTS, strict=True):
        rows = features(config, shape)
        drawn: list[tuple[str, str, torch.Tensor, float]] = [
            ("feature (write)", "tab:blue", rows, 5.0),
            ("probe = dual (read)", "tab:orange", optimal_probe(rows).directions, 2.5),
        ]
        if len(rows) <= rows.shape[1]:
            drawn.append(("steering that changes one\nread-off with f and no other", "tab:green", duals(rows), 1.0))
        reach = 1.15 * max(float(vectors.abs().max()) for _, _, vectors, _ in drawn)
        for label, colour, vectors, width in drawn:
            for i, (x, y) in enumerate(vectors.tolist()):
                arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
                axis.annotate("", (x, y), (0, 0), arrowprops=arrow)
                if vectors is rows:
                    axis.text(1.08 * x, 1.08 * y, f"$f_{i + 1}$", ha="center", va="center", fontsize=10)
            axis.plot([], [], color=colour, linewidth=width, label=label)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.set_title(leak_summary(config, shape), fontsize=9)
        axis.legend(frameon=False, loc="lower left")
    return figure
