"""The stages that match latents: on which tokens, with whose dictionaries, and what random latents stand for."""

from pathlib import Path

import numpy as np
import pytest

from polyseme.activations import collect_firings
from polyseme.core.progress import Silent
from polyseme.evaluation.matches import Sides
from polyseme.evaluation.recurrence import recurrence
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import Findings
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Worker
from polyseme.studies.stages.matching import N_RANDOM, matched_on
from tests.studies.small import JUDGED, small_config

SITE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def findings(small_network: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Of a study whose stages are run when they are asked for."""
    config = StudyConfig.model_validate(small_config(small_network, small_corpus, **JUDGED))
    return Findings(Plan.of(config), Worker(config, Store(tmp_path_factory.mktemp("store")), Silent()))


def test_firings_are_those_on_the_first_train_tokens_of_the_study_whatever_a_dictionary_was_trained_on(
    findings: Findings,
):
    real = findings.real.subject
    windows = matched_on(real)
    assert windows.fingerprint == real.first("train", 4000).fingerprint
    for name, measures in {"trained": findings.plan.real, **findings.plan.controls}.items():
        subject, matching = measures.role.subject(findings.at), findings.at.of(measures.matching)
        dictionary = findings.at.of(measures.dictionaries).dictionaries[SITE, 0]
        again = collect_firings(subject.network, windows, {"": (subject.bindings[SITE], dictionary)})[""]
        kept = matching.firings(SITE, 0)
        np.testing.assert_array_equal(kept.token, windows.tokens[kept.window, kept.position], err_msg=name)
        np.testing.assert_allclose(kept.matrix.toarray(), again.matrix.toarray(), atol=1e-5, err_msg=name)
        of_random = {each for each in matching.artifact.records if "random" in each}
        assert bool(of_random) == (name == "trained")


def test_random_latents_span_the_densities_of_the_judged_ones(findings: Findings):
    matching = findings.at.of(findings.plan.real.matching)
    judged, random = matching.firings(SITE, 0).densities, matching.random(SITE)
    assert random.learn.n_latents == random.heldout.n_latents == N_RANDOM
    assert random.heldout.n_tokens == findings.real.readings.firings[SITE, 0].n_tokens
    wanted = np.geomspace(np.quantile(judged[judged > 0], 0.05), min(2 * judged.max(), 0.9), N_RANDOM)
    np.testing.assert_allclose(random.learn.densities, wanted, atol=0.02)


def test_a_site_is_matched_with_its_own_partners_and_every_draw_of_a_null_network(findings: Findings):
    seeds = findings.config.seeds
    at, plan = findings.at, findings.plan
    found = findings.recurrence[SITE]
    own, read = at.of(plan.real.matching), at.of(plan.real.readings)

    def of_study(seed: int) -> Sides:
        return Sides(own.firings(SITE, seed), read.firings[SITE, seed])

    nulls = {
        kind: [Sides(at.of(d.matching).firings(SITE, 0), at.of(d.shared).firings[SITE, 0]) for d in drawn]
        for kind, drawn in plan.draws.items()
    }
    nulls["shuffled_tokens"] = nulls["shuffled_tokens"][1:]  # the first starts from the judged dictionary's weights
    again = recurrence(
        of_study(seeds[0]),
        [of_study(seed) for seed in seeds[1:]],
        nulls,
        own.random(SITE),
        (matched_on(findings.real.subject), findings.real.subject.tokens.heldout),
    )
    for one, other in (
        (found.match, again.match),
        (found.predicted, again.predicted),
        *((found.nulls[kind], again.nulls[kind]) for kind in nulls),
    ):
        np.testing.assert_allclose(one.value, other.value, atol=1e-6)
    np.testing.assert_allclose(found.floor, again.floor)
    assert found.of_text == ("shuffled_tokens",)
    assert list(found.network()) == ["gaussian_reinit"]
    assert {kind: len(null.value) for kind, null in found.nulls.items()} == {"gaussian_reinit": 2, "shuffled_tokens": 1}
    assert len(found.match.value) == len(seeds) - 1


def test_a_study_without_a_second_seed_has_no_matches():
    config = StudyConfig(seeds=(0,))
    assert not [stage for stage in Plan.of(config).findings if stage.name == "recurrence"]
