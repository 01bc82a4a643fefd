"""Every architecture, trained on planted data, finds features: recovery is tested beside reconstruction."""

import pytest

from polyseme.core.binding import Binding
from polyseme.core.seeds import make_generator
from polyseme.dictionaries import ARCHITECTURES
from polyseme.evaluation.recovery import FeatureTruth, scored
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.synth_sae_bench.toy import SynthSaeBenchToy

WORLD = SynthSaeBenchToy(n_features=96, d=32, frequencies=(0.3, 0.01), trees=4, depth=2, rank=4, seeds=(0,))
L0 = 3


@pytest.fixture(scope="module")
def records():
    """The records of each architecture by name; all are trained in one pass."""
    world, source = WORLD.world(0), WORLD.source(0, 120_000)
    jobs: list[Job] = []
    for name, kind in ARCHITECTURES.items():
        has_k = "k" in kind.model_fields
        config = kind.model_validate({"n_latents": 64, **({"k": L0} if has_k else {})})
        jobs.append(Job(name, config.build(32, seed=1), Binding.at(source.sites[0]), 1, None if has_k else L0))
    fit(jobs, source, TrainingConfig(batch_size=512))
    truth = FeatureTruth(world.directions, world.forest.parents.tolist())
    values = world.draw(10_000, make_generator(0, "heldout"))
    batches = [(world.vectors(values), values)]
    found = {job.name: scored(job.dictionary, truth, batches) for job in jobs}
    return {name: {r.name: r for r in of if not {"depth", "directions"} & r.scope.keys()} for name, of in found.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_finds_planted_features(records, name):
    of = records[name]
    shown = {key: (record.value, record.details.get("chance")) for key, record in of.items()}
    assert of["mcc"].value > of["mcc"].details["chance"] + 0.08, shown
    assert of["nearest_f1"].value > of["nearest_f1"].details["chance"] + 0.3, shown
    assert of["unique_features"].value > 0.5, shown
    assert of["dead_latents"].value < 0.1, shown
    assert of["absorption"].value < 0.2, shown
    assert of["fvu"].value < 0.4, shown
    assert of["l0"].value == pytest.approx(L0, rel=0.15), shown
