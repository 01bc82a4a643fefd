"""Transcoders and a crosscoder from the study file alone: trained, measured, judged, reported, and refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import polyseme
from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.networks import replace
from polyseme.store import Store
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Worker
from polyseme.studies.stages.tokens import first_windows
from tests.studies.small import small_config

READ, WRITTEN, STREAM = "blocks.0.mlp_in", "blocks.0.mlp_out", "blocks.1.resid_post"
TRANSCODER = f"{READ} → {WRITTEN}"
TWO, CROSS = "two and two", "crosscoder"
CROSSED = ("embed", "blocks.0.attn_out")
FILE = """
name = "transcoders"
sites = [
    "{stream}",
    {{ reads = ["{read}"], writes = ["{written}"] }},
    {{ reads = ["embed", "blocks.0.attn_out"], writes = ["blocks.1.attn_out", "blocks.1.mlp_out"], name = "{two}" }},
    {{ reads = {crossed}, writes = {crossed}, name = "{cross}" }},
]
controls = [{{ kind = "gaussian_reinit" }}, {{ kind = "shuffled_tokens" }}]
seeds = [0, 1, 2]
draws = 2
shown = 3
[network]
source = "{network}"
[corpus]
kind = "text"
paths = ["{corpus}"]
[tokens]
train = 4000
heldout = 700
heldout_document_tokens = 64
splice = 400
heldout_fraction = 0.4
[dictionary]
architecture = "topk"
n_latents = 32
k = 4
[training]
n_tokens = 8192
batch_size = 256
[evaluation]
n_resamples = 100
lookup_tokens = 2000
n_continuations = 0
[causal]
n_samples = 8
n_directions = 2
[verdicts]
min_documents = 6
alpha = 0.4
"""


@pytest.fixture(scope="module")
def result(small_network: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> polyseme.StudyResult:
    folder = tmp_path_factory.mktemp("transcoders")
    file = folder / "study.toml"
    file.write_text(
        FILE.format(
            network=small_network,
            corpus=small_corpus,
            stream=STREAM,
            read=READ,
            written=WRITTEN,
            two=TWO,
            cross=CROSS,
            crossed=json.dumps(CROSSED),
        )
    )
    return polyseme.study(file, root=folder / "runs")


def _metrics(result: polyseme.StudyResult, name: str, **scope: Any) -> list[float]:
    return [r.value for r in result.run.metrics if r.name == name and scope.items() <= r.scope.items()]


def test_every_latent_of_a_transcoder_has_a_verdict(result: polyseme.StudyResult) -> None:
    assert result.sites == (STREAM, TRANSCODER, TWO, CROSS)
    lines = [json.loads(line) for line in (result.run.artifacts / "verdicts.jsonl").read_text().splitlines()]
    for site in result.sites:
        assert sorted(v["latent"] for v in lines if v["site"] == site) == list(range(32))
    table = result.latents()
    assert len(table) == 4 * 32
    assert set(table["site"].tolist()) == set(result.sites)
    statuses = {v["status"] for v in lines if v["site"] == TRANSCODER}
    assert statuses - {"undecided"}, "some of them are judged"
    page = result.report.read_text()
    assert TRANSCODER in page
    assert TWO in page


def test_its_fvu_is_of_what_it_writes_and_its_loss_that_of_a_pass_made_by_hand(
    result: polyseme.StudyResult, small_network: Path
) -> None:
    dictionary = result.dictionary(TRANSCODER)
    assert (dictionary.d_in, dictionary.d_out) == (16, 16)
    assert (result.dictionary(TWO).d_in, result.dictionary(TWO).d_out) == (32, 32)
    (fvu,) = _metrics(result, "fvu", site=TRANSCODER, seed=0, study="trained")
    real, network = result.findings.real, result.findings.real.subject.network
    heldout = real.subject.tokens.heldout
    windows = first_windows(heldout, result.findings.config.tokens.splice)

    def read(w: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = torch.from_numpy(w.tokens).long()
        found = network.read(tokens, [READ, WRITTEN])
        return tokens, torch.from_numpy(~w.special), found[network.site(READ)], found[network.site(WRITTEN)]

    _, counted, x, y = read(heldout)
    error = (y[counted] - dictionary.decode(dictionary.encode(x[counted]))).double().square().sum()
    variance = (y[counted].double() - y[counted].double().mean(0)).square().sum()
    assert fvu == pytest.approx(float(error / variance), rel=1e-5)
    tokens, counted, x, y = read(windows)
    patched = y.clone()
    patched[counted] = dictionary.decode(dictionary.encode(x[counted]))
    logits = network.run(tokens, edits={WRITTEN: replace(patched)}).logits
    keep = counted[:, 1:]
    ce = torch.nn.functional.cross_entropy(logits[:, :-1][keep].double(), tokens[:, 1:][keep])
    (found,) = _metrics(result, "ce_patched", site=TRANSCODER, seed=0, study="trained")
    assert found == pytest.approx(float(ce), rel=1e-5)
    assert len(_metrics(result, "ce_patched", site="joint", seed=0, study="trained")) == 1


def test_the_loss_of_a_crosscoder_is_that_of_a_pass_with_what_it_makes_of_a_clean_one(
    result: polyseme.StudyResult,
) -> None:
    dictionary, subject = result.dictionary(CROSS), result.findings.real.subject
    assert (dictionary.d_in, dictionary.d_out) == (32, 32)
    windows = first_windows(subject.tokens.heldout, result.findings.config.tokens.splice)
    tokens, counted = torch.from_numpy(windows.tokens).long(), torch.from_numpy(~windows.special)
    clean = subject.network.read(tokens, CROSSED)
    output = dictionary.reconstruct(torch.cat([clean[name][counted] for name in CROSSED], 1)).split(16, dim=1)
    edits = {name: clean[name].clone() for name in CROSSED}
    for name, part in zip(CROSSED, output, strict=True):
        edits[name][counted] = part
    edited = {name: replace(vectors, positions=counted) for name, vectors in edits.items()}
    logits = subject.network.run(tokens, edits=edited).logits
    keep = counted[:, 1:]
    ce = torch.nn.functional.cross_entropy(logits[:, :-1][keep].double(), tokens[:, 1:][keep])
    (found,) = _metrics(result, "ce_patched", site=CROSS, seed=0, study="trained")
    assert found == pytest.approx(float(ce), rel=1e-5)


def test_a_latent_is_described_and_its_two_directions_are_not_compared(result: polyseme.StudyResult) -> None:
    for site in (TRANSCODER, TWO):
        assert math.isnan(result.latent(site, 0).read_write_cosine)
    assert not math.isnan(result.latent(STREAM, 0).read_write_cosine)


def test_a_second_run_finds_everything(result: polyseme.StudyResult) -> None:
    again = polyseme.study(result.findings.config, root=result.run.path.parent)
    assert all(stage.reused for stage in again.stages)
    assert again.verdict_counts == result.verdict_counts


@pytest.mark.parametrize(
    ("sites", "says"),
    [
        ([{"reads": WRITTEN, "writes": READ}], "comes later in the forward pass"),
        ([WRITTEN, {"reads": READ, "writes": WRITTEN}], "both write"),
        ([{"reads": READ, "writes": WRITTEN}, {"reads": READ, "writes": WRITTEN}], "names one twice"),
        ([{"reads": READ, "writes": "blocks.9.mlp_out"}], "no site 'blocks.9.mlp_out'"),
        ([{"reads": READ}], "sites.0.writes is missing"),
    ],
)
def test_what_cannot_be_bound_is_refused_before_anything_is_trained(
    sites: list[Any], says: str, small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    config = small_config(small_network, small_corpus, sites=sites)
    with pytest.raises(InputError, match=says):
        polyseme.study(config, root=tmp_path)
    assert not list(tmp_path.glob("objects/dictionaries*"))


def test_a_study_of_transcoders_is_opened_again(result: polyseme.StudyResult) -> None:
    again = polyseme.open_study(result.run.path)
    assert again.sites == result.sites == (STREAM, TRANSCODER, TWO, CROSS)
    assert again.findings.real.subject.bindings == result.findings.real.subject.bindings
    assert repr(again) == repr(result)
    assert again.latent(TWO, 2).model_dump_json() == result.latent(TWO, 2).model_dump_json()


def test_a_plan_prices_the_stages_of_every_binding(result: polyseme.StudyResult) -> None:
    config = result.findings.config
    worker = Worker(config, Store(result.run.path.parent), Silent())
    work = {stage.shown: stage.work(worker) for stage in Plan.of(config).stages}
    assert worker.read_widths == {STREAM: 16, TRANSCODER: 16, TWO: 32, CROSS: 32}
    assert worker.multiply_adds == sum((worker.read_widths[s] + worker.write_widths[s]) / 2 for s in result.sites) * 32
    n_heldout, n_learn = worker.config.tokens.heldout, worker.config.evaluation.match_tokens
    for site in result.sites:  # two partners, two draws of a null network, one of a null text, and the tables
        each = n_learn * 4**2 + 32**3 / 5 + n_heldout * 32 * (4 + 60)
        assert work[f"recurrence ({site})"].correlated == pytest.approx(6 * each)
    assert work["stability (trained)"].matched == sum(32**2 * (worker.write_widths[s] + 32) for s in result.sites)
    assert work["dictionaries (trained)"].trained == 8192 * 3 * worker.multiply_adds
    assert work[f"causal (trained, {TWO})"].passed == 32 * config.causal.edited
    assert work["splice (trained)"].passed == 400 * (1 + 3 * 5)
