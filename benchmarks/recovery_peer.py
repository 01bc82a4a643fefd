"""sae-lens's scores and draws for `recovery.py`: run in an environment that has sae-lens.

python recovery_peer.py FOLDER
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.evals import ExplainedVarianceCalculator
from sae_lens.synthetic import (
    ActivationGenerator,
    HierarchyNode,
    LowRankCorrelationMatrix,
    hierarchy_modifier,
    orthogonalize_embeddings,
    zipfian_firing_probabilities,
)
from sae_lens.synthetic.evals import (
    ClassificationMetricsCalculator,
    DeadLatentsCalculator,
    L0Calculator,
    feature_uniqueness,
    mean_correlation_coefficient,
)
from sae_lens.synthetic.hierarchy import Hierarchy

ROWS = 2000
"""Rows at a time: everything is dense here."""


def dense(data: Any, name: str, start: int, stop: int, width: int) -> torch.Tensor:
    """Some rows of a sparse matrix."""
    offsets = data[f"{name}_offsets"][start : stop + 1]
    entries = slice(offsets[0], offsets[-1])
    out = torch.zeros(stop - start, width)
    row = np.repeat(np.arange(stop - start), np.diff(offsets))
    out[row, data[f"{name}_indices"][entries].astype(np.int64)] = torch.from_numpy(data[f"{name}_values"][entries])
    return out


def scores(data: Any, features: torch.Tensor) -> dict[str, float]:
    """What `eval_sae_on_synthetic_data` computes, of rows that are given."""
    directions = torch.from_numpy(data["directions"])
    l0, dead = L0Calculator(), DeadLatentsCalculator(len(directions))
    classes, variance = ClassificationMetricsCalculator(directions, features), ExplainedVarianceCalculator()
    x, y = (torch.from_numpy(data[name]) for name in ("x", "y"))
    for start in range(0, len(x), ROWS):
        stop = min(start + ROWS, len(x))
        z = dense(data, "z", start, stop, len(directions))
        l0.add_batch(z)
        dead.add_batch(z)
        classes.add_batch(z, dense(data, "values", start, stop, len(features)))
        variance.add_batch(y[start:stop], x[start:stop])
    found = classes.compute()
    return {
        "mcc": mean_correlation_coefficient(directions, features),
        "unique_features": feature_uniqueness(directions, features),
        "nearest_precision": found.precision,
        "nearest_recall": found.recall,
        "nearest_f1": found.f1_score,
        "l0": l0.compute(),
        "dead_latents": dead.compute() / len(directions),
        "fvu": 1 - variance.compute(),
    }


def main() -> None:
    """Read the folder, write `drawn.npz`, print the rest."""
    folder = Path(sys.argv[1])
    world = dict(np.load(folder / "world.npz"))
    of = {name: torch.from_numpy(array) for name, array in world.items() if array.ndim}
    found: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("dictionary-*.npz")):
        found[path.stem.removeprefix("dictionary-")] = scores(np.load(path), of["directions"])
    nodes = [HierarchyNode(feature_index=i) for i in range(len(world["parents"]))]
    children: dict[int, list[HierarchyNode]] = {}
    for i, parent in enumerate(world["parents"].tolist()):
        if parent >= 0:
            children.setdefault(parent, []).append(nodes[i])
    for parent, own in children.items():
        nodes[parent].children = own
        nodes[parent].mutually_exclusive_children = bool(world["excluding"][parent])
        nodes[parent].scale_children_by_parent = bool(world["scaled"])
    roots = [nodes[i] for i in children if world["parents"][i] < 0]
    modifier = hierarchy_modifier(roots)
    factors = Hierarchy(roots=roots, modifier=modifier).compute_probability_correction_factors(of["frequency"].double())
    generator = ActivationGenerator(
        len(nodes),
        of["chosen"].float(),
        std_firing_magnitudes=of["spread"],
        mean_firing_magnitudes=of["mean"],
        modify_activations=modifier,
        correlation_matrix=LowRankCorrelationMatrix(of["loadings"], 1 - of["loadings"].square().sum(1)),
    )
    torch.manual_seed(0)
    n, features = int(world["rows"]), len(nodes)
    counts, sums, squares = (np.zeros(features) for _ in range(3))
    pairs = np.zeros((64, 64))
    begun = time.perf_counter()
    for start in range(0, n, ROWS):
        values = generator.sample(min(ROWS, n - start))
        counts += (values > 0).sum(0).numpy()
        sums += values.double().sum(0).numpy()
        squares += values.double().square().sum(0).numpy()
        on = (values[:, :64] > 0).double()
        pairs += (on.T @ on).numpy()
    seconds = time.perf_counter() - begun
    size, exponent, most, least = world["law"].tolist()
    np.savez(
        folder / "drawn.npz",
        counts=counts,
        sums=sums,
        squares=squares,
        pairs=pairs,
        law=zipfian_firing_probabilities(int(size), exponent, most, least).numpy(),
        chosen=(of["frequency"].double() * factors).clamp(max=1).numpy(),
        moved=orthogonalize_embeddings(of["start"], num_steps=100, lr=3e-4).numpy(),
    )
    print(json.dumps({"scores": found, "seconds": {"sae-lens, rows drawn": n, "s": seconds}}))


if __name__ == "__main__":
    main()
