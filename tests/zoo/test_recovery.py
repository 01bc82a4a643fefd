"""The recovery sweep: it goes on after a kill, and what it reports is what plain numpy finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from polyseme.activations.memory import TensorSource
from polyseme.core.binding import Binding
from polyseme.core.progress import Silent
from polyseme.dictionaries import BatchTopKConfig
from polyseme.evaluation.recovery import FeatureTruth
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.planted_sparse.sweep import VERSION, RecoverySweep, recovery_sweep, score
from polyseme.zoo.planted_sparse.toy import PlantedSparseToy

DATA = PlantedSparseToy(n_features=12, d=8, l0=2, trees=1, branching=2, depth=1, n_factors=2, seeds=(3, 4, 5))
SWEEP = RecoverySweep(
    toy=DATA,
    architectures=("batch_topk",),
    l0=(2,),
    n_latents=12,
    tokens=6_400,
    rows=1_000,
    heldout=400,
    batch_size=64,
)


class Killed(Exception):  # noqa: N818  what a test raises in a kill's place
    pass


class KilledAt:
    """A reporter that is told of everything and raises at a message that starts with `at`."""

    def __init__(self, at: str):
        self.at = at

    def task(self, name: str, total: float, unit: str = "") -> Silent:
        return Silent()

    def message(self, text: str) -> None:
        if text.startswith(self.at):
            raise Killed


def scores(root: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every seed's scores."""
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("scores.json")}


def test_a_sweep_that_was_killed_between_seeds_goes_on(tmp_path, monkeypatch):
    whole = recovery_sweep(SWEEP, root=tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        recovery_sweep(SWEEP, KilledAt("seed 4"), root=cut)
    first = scores(cut)
    assert len(first) == 1

    trained: list[int] = []

    def counted(jobs, *args, **kwargs):
        trained.extend(job.seed for job in jobs)
        return fit(jobs, *args, **kwargs)

    monkeypatch.setattr("polyseme.zoo.planted_sparse.sweep.fit", counted)
    resumed = recovery_sweep(SWEEP, root=cut)
    assert trained == [4, 5]
    assert resumed.model_dump_json() == whole.model_dump_json()
    assert scores(cut).items() > first.items()

    monkeypatch.setattr("polyseme.zoo.planted_sparse.sweep.VERSION", VERSION + 1)
    recovery_sweep(SWEEP, root=cut)
    assert trained == [4, 5, 3, 4, 5]


@pytest.fixture(scope="module")
def trained():
    toy = DATA.instance(0)
    x, _ = toy.activations(4_000, torch.Generator().manual_seed(1))
    dictionary = BatchTopKConfig(n_latents=16, k=2).build(DATA.d, seed=2)
    training = TrainingConfig(n_tokens=300 * 128, batch_size=128, lr=5e-3)
    fit([Job("only", dictionary, Binding.at("x"), 0)], TensorSource({"x": x}, seed=3), training)
    heldout, sample = toy.activations(1_500, torch.Generator().manual_seed(4))
    return toy.truth.directions, dictionary, heldout, sample.features


def test_records_are_what_plain_numpy_finds(trained):
    directions, dictionary, x, values = trained
    records = {
        (r.name, *(v for k, v in r.scope.items() if k != "seed")): r.value
        for r in score(dictionary, FeatureTruth(directions, DATA.parents()), x, values)
    }
    z = dictionary.encode(x).dense().double().numpy()
    F, W, R = (
        t.detach().double().numpy() for t in (directions, dictionary.write_directions(), dictionary.read_directions())
    )
    X, V = x.double().numpy(), values.double().numpy()
    alive = (z > 0).any(0)
    assert records["dead_latents",] == pytest.approx(1 - alive.mean())

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    for key, rows in ((("mcc",), W), (("mcc", "read"), R)):
        overlap = np.abs(unit(F) @ unit(rows).T) * alive
        pairs = linear_sum_assignment(overlap, maximize=True)
        assert records[key] == pytest.approx(overlap[pairs].sum() / len(F), abs=1e-6)

    own, f1 = [], []
    for feature in (V != 0).T:
        of_latent = []
        for latent in (z != 0).T:
            hits, false_alarms, misses = (latent & feature).sum(), (latent & ~feature).sum(), (feature & ~latent).sum()
            of_latent.append(2 * hits / (2 * hits + false_alarms + misses))
        own.append(int(np.argmax(of_latent)))
        f1.append(max(of_latent))
    assert min(f1) < 0.9 * max(f1), "features that are all found alike would hide a mix-up"
    assert records["feature_f1",] == pytest.approx(np.mean(f1), abs=1e-9)

    bias = dictionary.folded().parameters()["b_dec"].double().numpy()
    residual = X - (z @ W + bias)
    explained = 1 - (residual**2).sum() / ((X - X.mean(0)) ** 2).sum()
    assert 0.3 < explained < 1
    assert 1 - records["fvu",] == pytest.approx(explained, abs=1e-5)
    assert records["l0",] == pytest.approx((z != 0).sum(1).mean())

    slopes = []
    for feature, latent in enumerate(own):
        both = (V[:, feature] != 0) & (z[:, latent] != 0)
        written = z[both, latent] * np.linalg.norm(W[latent])
        true = V[both, feature] * np.linalg.norm(F[feature])
        slopes.append(np.linalg.lstsq(true[:, None], written, rcond=None)[0][0])
    assert records["feature_shrinkage",] == pytest.approx(np.mean(slopes), rel=1e-6)
