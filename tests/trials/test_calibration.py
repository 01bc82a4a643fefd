"""The confusion matrix of the verdicts on planted truth, at a size for tests; what is shipped has the full one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from polyseme.cli.main import run
from polyseme.core.errors import InputError
from polyseme.core.records import AXES, STATUSES
from polyseme.core.validation import validate_config
from polyseme.nulls import NULLS
from polyseme.studies.config import StudyConfig
from polyseme.studies.levels import LEVELS
from polyseme.trials.calibration import OF_WEIGHTS, SIZES, CalibrationConfig
from polyseme.trials.given import NOISE, Text, altered, oracle, random_writes, truth
from polyseme.trials.judging import plant, stands_for
from polyseme.trials.kinds import EITHER, FEATURES, MODES, NAMES
from polyseme.trials.matrix import Row, Seen, as_markdown, clustered_interval, procedure
from polyseme.trials.planted import PlantedNetwork, Planting
from polyseme.trials.shipped import shipped_calibration, shipped_report
from polyseme.trials.verdicts import CalibrationReport, calibrate

TINY = Planting(
    feature=8, token=2, bigram=2, rare=2, unread=2, bystander=2, built_in=3, built_in_unread=1, d=32, vocabulary=96
)
SMALL = CalibrationConfig(
    split="calibration",
    n_networks=2,
    planting=TINY,
    n_documents=30,
    n_train_tokens=80_000,
    k=3,
    levels=("quick",),
    controls=("gaussian_reinit", "spectrum_reinit"),
    modes=("trained", "oracle", "random_writes"),
)


def test_more_active_latents_than_there_are_is_refused_before_anything_is_planted():
    with pytest.raises(InputError, match="8 latents cannot keep k = 9 of them active"):
        validate_config({"n_latents": 8, "k": 9}, CalibrationConfig, where="here")


def test_every_set_of_controls_that_judge_is_calibrated_and_the_splits_share_no_size():
    assert {kind for kind, null in NULLS.items() if null.targets == "weights"} == set(OF_WEIGHTS)
    sets = CalibrationConfig().combinations
    assert {some[0] for some in sets if len(some) == 1} == set(OF_WEIGHTS)
    assert len(set(sets)) == len(sets) == 2 ** len(OF_WEIGHTS) - 1
    assert all(list(some) == sorted(some) for some in sets)
    one, other = SIZES["calibration"], SIZES["test"]
    assert (one.d, one.vocabulary) != (other.d, other.vocabulary)
    seeds = {plant(SMALL.model_copy(update={"split": split}), 0).seed for split in SIZES}
    assert len(seeds) == 2


def test_a_row_counts_words_and_answers_of_each_network():
    seen = [
        Seen(
            level="quick",
            mode="trained",
            controls=("gaussian_reinit",),
            kinds=("feature", "feature", "token", "feature"),
            statuses=statuses,
            answers=answers,
        )
        for statuses, answers in (
            (("network_feature", "undecided", "token_level", None), ("yyyy", "yuyy", "yyny", "")),
            (
                ("network_feature", "network_feature", "network_feature", "use_not_shown"),
                ("yyyy", "yyyy", "yyyy", "yyyn"),
            ),
        )
    ]
    matrix = procedure(seen)
    feature, token = matrix.row("feature"), matrix.row("token")
    assert feature is not None
    assert token is not None
    assert matrix.row("bigram") is None
    assert feature.counts == {"network_feature": 3, "use_not_shown": 1, "undecided": 1}
    assert feature.by_network == ((1, 2), (2, 3))
    assert (feature.not_found, feature.not_found_by_network) == (1, (1, 0))
    assert feature.answers == {"recurrent": (5, 0), "network": (4, 0), "beyond_tokens": (5, 0), "used": (4, 1)}
    assert feature.called.value == 3 / 5
    assert feature.missed.value == 3 / 6
    assert token.called.value == token.answers["beyond_tokens"][0] / 2 == 0.5
    text = as_markdown([matrix])
    assert "## quick, gaussian_reinit" in text
    assert NAMES["token"] in text
    assert "60.0% [" in text


def test_the_interval_is_wilsons_for_as_many_independent_cases_as_the_clusters_are_worth():
    single = clustered_interval([(int(i < 3), 1) for i in range(40)])
    assert single.low == pytest.approx(0.02585, abs=1e-4)  # Wilson's own of 3 of 40
    assert single.high == pytest.approx(0.19864, abs=1e-4)
    # All or nothing in each network: as wide as one case a network.
    clustered, wilson = clustered_interval([(20, 20), (0, 20)] * 4), clustered_interval([(1, 1), (0, 1)] * 4)
    assert (clustered.low, clustered.high) == pytest.approx((wilson.low, wilson.high), abs=1e-3)
    # The same share in every network: the correlation that is assumed at least.
    even = clustered_interval([(5, 20)] * 8)
    effect = 1 + 19 * 0.05
    assert (even.low + even.high) / 2 == pytest.approx((40 + 1.92 * effect) / (160 + 3.84 * effect), abs=1e-3)
    nothing = clustered_interval([(0, 20)] * 8)
    assert nothing.low == 0
    assert 160 / effect * nothing.high / (1 - nothing.high) == pytest.approx(3.84, abs=0.01)
    assert np.isnan(clustered_interval([]).low)


@pytest.fixture(scope="module")
def planted():
    module = PlantedNetwork(TINY, seed=1)
    train, heldout = (module.sample(n_documents=n, windows_each=8, context=32, topic=0.5, seed=n) for n in (60, 40))
    return module, Text(train, 200, heldout)


def test_an_oracle_has_a_noisy_latent_for_each_variable(planted):
    module, text = planted
    found = oracle(module, text, seed=0)
    assert found.kinds == module.kinds
    assert found.sides.learn.n_tokens == 200 * 31
    assert (found.train.matrix[: 200 * 31] != found.sides.learn.matrix).nnz == 0
    stands = stands_for(found.sides.heldout, truth(module, text.heldout))
    assert stands.tolist() == list(range(len(module.kinds)))
    cosine = (found.directions * module.directions).sum(1)
    assert cosine.mean() == pytest.approx((1 + NOISE**2) ** -0.5, abs=0.05)


def test_altered_features_are_halves_sums_and_features_less_a_token(planted):
    module, text = planted
    found, z = altered(module, text, seed=0), truth(module, text.heldout)
    assert found.kinds is not None
    kinds = np.array(found.kinds)
    latents = found.sides.heldout.matrix.toarray()
    r = np.corrcoef(latents.T, z[:, [k == "feature" for k in module.kinds]].T)[: len(kinds), len(kinds) :]
    for kind in ("split_by_rule", "split_by_chance"):
        one, other = np.split(latents[:, kinds == kind], 2, axis=1)
        assert not ((one > 0) & (other > 0)).any()
        assert r[kinds == kind].max(1).max() < 0.9
    assert (np.sort(r[kinds == "merged"], axis=1)[:, -2] > 0.45).all()
    assert (r[kinds == "absorbed"].max(1) > 0.6).all()
    directions = found.directions @ module.directions[: len(r.T)].T
    assert (np.sort(directions[kinds == "merged"].numpy(), axis=1)[:, -2] > 0.4).all()


def test_random_writes_keep_firings_and_norms_and_have_the_sites_covariance(planted):
    module, text = planted
    given = oracle(module, text, seed=0)
    vectors = torch.randn(4000, TINY.d) * torch.linspace(0.1, 3, TINY.d)
    found = random_writes(given, vectors, seed=0)
    assert found.sides is given.sides
    assert set(found.kinds or ()) == {"artefact"}
    assert torch.allclose(found.directions.norm(dim=1), given.directions.norm(dim=1))
    spread = found.directions.square().mean(0)
    assert spread[-8:].mean() > 4 * spread[:8].mean()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[CalibrationReport, Path]:
    root = tmp_path_factory.mktemp("calibration")
    return calibrate(SMALL, root=root), root


@pytest.mark.slow
def test_every_way_of_judging_counts_every_variable_of_every_network(small):
    report, _ = small
    ways = {(p.level, p.mode, p.controls) for p in report.procedures}
    assert len(ways) == len(report.procedures) == len(SMALL.modes) * len(SMALL.combinations) == 9
    for found in report.procedures:
        for row in found.rows:
            assert len(row.by_network) == 2
            assert row.kind in NAMES
            assert set(row.counts) <= set(STATUSES)
            assert set(row.answers) == set(AXES)
            if found.mode == "oracle" or (found.mode == "trained" and row.kind != "unmatched"):
                assert row.n + row.not_found == 2 * getattr(TINY, row.kind)
    assert CalibrationReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.slow
def test_latents_that_are_none_are_not_called_features(small):
    report, _ = small
    judged = report.of("quick", "oracle", "gaussian_reinit")
    writes = report.of("quick", "random_writes", "gaussian_reinit")
    assert judged is not None
    assert writes is not None
    yes = {row.kind: {axis: row.answers[axis][0] / row.n for axis in AXES} for row in judged.rows}
    assert min(yes["feature"][axis] for axis in ("recurrent", "network", "beyond_tokens")) > 0.5
    assert yes["built_in"]["network"] == 0
    assert yes["token"]["beyond_tokens"] == 0
    for row in (*judged.rows, *writes.rows):
        assert row.kind in FEATURES or row.called.value <= 0.1


@pytest.mark.slow
def test_a_killed_run_resumes_and_more_networks_keep_those_there_are(small):
    report, root = small
    files = {p: p.stat().st_mtime_ns for p in root.rglob("seen.json")}
    assert len(files) == 2
    fewer = calibrate(SMALL.model_copy(update={"n_networks": 1}), root=root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("seen.json")} == files
    row, both = (r.procedures[0].rows[0] for r in (fewer, report))
    assert row.by_network == both.by_network[:1]


@pytest.mark.slow
def test_the_command_prints_the_matrix_and_keeps_it(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report, root = small
    out = tmp_path / "o.json"
    of = SMALL.model_dump(mode="json", exclude_defaults=True)
    flags = [f"--{key.replace('_', '-')}" for key in ("split", "n_networks", "n_documents", "n_train_tokens", "k")]
    values = [str(of[key.strip("-").replace("-", "_")]) for key in flags]
    lists = ["--levels", "quick", "--controls", *of["controls"], "--modes", *of["modes"]]
    planting = [
        part for key, value in TINY.model_dump().items() for part in (f"--planting.{key.replace('_', '-')}", str(value))
    ]
    pairs = [part for pair in zip(flags, values, strict=True) for part in pair]
    assert run(["calibrate", *pairs, *lists, *planting, "--out", str(out), "--root", str(root)]) == 0
    assert CalibrationReport.model_validate_json(out.read_text()) == report
    printed = capsys.readouterr().out
    assert "## quick, gaussian_reinit + spectrum_reinit" in printed
    assert f"written to {out}" in printed


def study(**given):
    kinds = given.pop("controls", ["gaussian_reinit"])
    controls = [{"kind": kind} if isinstance(kind, str) else kind for kind in kinds]
    return StudyConfig.model_validate({"sites": ["blocks.0"], "controls": controls, **given})


def test_the_shipped_matrix_has_every_level_and_set_of_controls():
    report = shipped_report()
    config = report.config
    assert config.split == "test"
    ways = {(p.level, p.mode, p.controls) for p in report.procedures}
    assert ways == {
        (level, mode, some) for level in config.levels for mode in config.modes for some in config.combinations
    }
    assert config.controls == OF_WEIGHTS
    for found in report.procedures:
        row = found.row("feature")
        assert (row is not None) == (found.mode in ("trained", "oracle"))
        assert all(len(row.by_network) == config.n_networks for row in found.rows)


@pytest.mark.parametrize("controls", [["gaussian_reinit", "spectrum_reinit"], ["spectrum_reinit", "gaussian_reinit"]])
@pytest.mark.parametrize("level", ["quick", "standard"])
def test_the_rates_are_those_of_the_level_and_the_controls_of_the_study(level, controls):
    shipped, why = shipped_calibration(study(controls=controls, evidence=level))
    assert why == ""
    assert shipped is not None
    assert shipped.controls == ("gaussian_reinit", "spectrum_reinit")
    report = shipped_report()
    assert shipped.n_networks == report.config.n_networks
    rows = [row for mode in MODES if (p := report.of(level, mode, *controls)) for row in p.rows]
    assert [kind.called for kind in shipped.kinds] == [row.called for row in rows]
    assert [kind.counts for kind in shipped.kinds] == [row.counts for row in rows]
    right = [None if row.kind in EITHER else row.kind in FEATURES for row in rows]
    assert [kind.is_feature for kind in shipped.kinds] == right
    assert len({kind.name for kind in shipped.kinds}) == len(shipped.kinds)


def test_a_study_that_sets_a_levels_numbers_itself_has_that_levels_rates():
    quick = LEVELS["quick"]
    own = study(seeds=[3, 4, 5], draws=quick.draws, causal=quick.causal, controls=["gaussian_reinit", "unigram_tokens"])
    shipped, _ = shipped_calibration(own)
    assert shipped == shipped_calibration(study(evidence="quick"))[0]
    assert shipped != shipped_calibration(study())[0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"evidence": "paper"}, "evidence paper, calibrated with"),
        ({"causal": {"n_samples": 17}}, f"causal.n_samples 17, calibrated with {LEVELS['standard'].n_samples}"),
        ({"causal": {"nulls": ["isotropic"]}}, "causal.nulls"),
        ({"seeds": [0, 1, 2, 3]}, "seeds 4, calibrated with 6"),
        ({"draws": 3}, "draws 3, calibrated with 5"),
        ({"verdicts": {"alpha": 0.01}}, "verdicts.alpha 0.01, calibrated with 0.05"),
        ({"verdicts": {"min_documents": 19}}, "verdicts.min_documents 19"),
        ({"controls": []}, "these controls were not calibrated together (none)"),
        ({"dictionary": {"architecture": "jumprelu"}}, "dictionary.architecture jumprelu, calibrated with topk"),
        ({"sites": [{"reads": ["blocks.0.mlp_in"], "writes": ["blocks.0.mlp_out"]}]}, "is no autoencoder of one site"),
        ({"evaluation": {"match_tokens": 500}}, "evaluation.match_tokens 500, calibrated with 60,000"),
        ({"controls": ["uniform_tokens"]}, "these controls were not calibrated together (none)"),
        ({"controls": [{"kind": "gaussian_reinit", "keep_embeddings": True}]}, "gaussian_reinit_keep_embeddings"),
    ],
)
def test_no_rate_is_quoted_for_a_procedure_it_was_not_measured_with(given, says):
    shipped, why = shipped_calibration(study(**given))
    assert shipped is None
    assert says in why


def test_what_only_costs_time_or_memory_is_no_other_procedure():
    fast = {"route": "rows", "max_ghosts": 64, "tokens_per_pass": 512}
    shipped, _ = shipped_calibration(study(causal=fast))
    assert shipped is not None


def test_the_shipped_file_is_small():
    from importlib.resources import files

    text = (files("polyseme.trials") / "calibration.json").read_text()
    assert len(text) < 200_000
    assert json.loads(text)["config"]["split"] == "test"


def test_a_row_is_a_pure_record():
    row = Row(kind="feature", counts={"network_feature": 2}, answers={}, by_network=((2, 2),))
    assert Row.model_validate_json(row.model_dump_json()) == row
