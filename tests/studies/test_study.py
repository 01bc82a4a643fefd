"""The whole line on a tiny network: it ends in a report, its numbers can be recomputed, and nothing is done twice."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import polyseme
from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.core.records import AXES, STATUSES, MetricRecord
from polyseme.report.terminal import print_summary
from tests.studies.small import JUDGED, small_config
from tests.studies.small import shown as report_in


@pytest.fixture(scope="module")
def result(small_network: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> polyseme.StudyResult:
    return polyseme.study(small_config(small_network, small_corpus), root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def judged(result: polyseme.StudyResult, small_network: Path, small_corpus: Path) -> polyseme.StudyResult:
    """A study of more documents, partners and draws, with thresholds that it can reach."""
    return polyseme.study(small_config(small_network, small_corpus, **JUDGED), root=result.run.path.parent)


def test_the_corpus_is_named_without_brackets(result: polyseme.StudyResult, small_corpus: Path) -> None:
    corpus = report_in(result).summary.corpus
    assert str(small_corpus) in corpus
    assert "[" not in corpus


def _metric(result: polyseme.StudyResult, name: str, **scope: Any) -> MetricRecord:
    found = [r for r in result.run.metrics if r.name == name and all(r.scope.get(k) == v for k, v in scope.items())]
    assert len(found) == 1, (name, scope, [r.scope for r in found])
    return found[0]


def test_the_study_ends_in_a_report_with_a_verdict_on_every_latent(result: polyseme.StudyResult) -> None:
    page = result.report.read_text()
    assert "<html" in page
    assert "<script" not in page
    assert sum(result.verdict_counts.values()) == 2 * 32
    lines = (result.run.artifacts / "verdicts.jsonl").read_text().splitlines()
    assert {(v["site"], v["latent"]) for v in map(json.loads, lines)} == {
        (site, i) for site in ("blocks.0.resid_post", "blocks.1.resid_post") for i in range(32)
    }
    assert result.run.record.status == "complete"
    assert {c.control for comparison in report_in(result).comparisons for c in comparison.controls} == {
        "gaussian_reinit",
        "shuffled_tokens",
    }


def test_the_table_of_latents_holds_all_and_agrees_with_every_other_place(judged: polyseme.StudyResult) -> None:
    table = judged.latents()
    assert len(table) == 2 * 32
    assert sum(n for status, n in table.counts.items() if status != "undecided") > 0
    assert table.counts["undecided"] > 0
    assert table.counts == judged.verdict_counts
    lines = [json.loads(line) for line in (judged.run.artifacts / "verdicts.jsonl").read_text().splitlines()]
    assert [(v["site"], v["seed"], v["latent"], v["status"], v["missing"]) for v in lines] == [
        (row.site, row.seed, row.latent, row.status, row.missing) for row in table
    ]
    for line, row in zip(lines, table, strict=True):
        assert line["frequency"] == pytest.approx(row.frequency, nan_ok=True)
        assert [axis["axis"] for axis in line["axes"]] == list(AXES)
        for axis in line["axes"]:
            hardest = next((e for e in axis["evidence"] if e["null"] == axis["hardest"]), None)
            interval = hardest["interval"] if hardest else {"low": None, "high": None}
            for column, value in (
                ("", axis["answer"]),
                ("_hardest", axis["hardest"]),
                ("_value", hardest and hardest["value"]),
                ("_null", hardest and hardest["null_value"]),
                ("_low", interval["low"]),
                ("_high", interval["high"]),
                ("_p", hardest and hardest["p"]),
                ("_p_corrected", axis["p_corrected"]),
                ("_frequency", axis["frequency"]),
            ):
                found = getattr(row, f"{axis['axis']}{column}")
                expected = math.nan if value is None else value
                assert found == (expected if isinstance(found, str) else pytest.approx(expected, nan_ok=True)), column
    report = json.loads((judged.run.artifacts / "report.json").read_text())
    for site in ("blocks.0.resid_post", "blocks.1.resid_post"):
        [dictionary] = [d for d in report["dictionaries"] if d["name"] == site]
        assert judged.latents(site).counts == dictionary["verdict_counts"]
    shares = {
        (r.scope["site"], r.scope["seed"], r.scope["study"], r.name.removeprefix("share_")): r.details["count"]
        for r in judged.run.metrics
        if r.name.removeprefix("share_") in STATUSES
    }
    assert shares == {
        (site, 0, "trained", status): n
        for site in ("blocks.0.resid_post", "blocks.1.resid_post")
        for status, n in judged.latents(site).counts.items()
    }
    assert f"not shown recurrent {table.counts['not_recurrent']}" in " ".join(report_in(judged).headlines)
    page = " ".join(re.sub(r"<[^>]*>", " ", judged.report.read_text()).split())
    assert f"{len(report_in(judged).latents)} of 64 latents are shown" in page


def test_text_that_was_asked_for_and_not_continued_is_said(
    judged: polyseme.StudyResult, small_network: Path, small_corpus: Path
) -> None:
    config = small_config(small_network, small_corpus, name="asked")
    config["evaluation"] = {**config["evaluation"], "n_continuations": 2}
    asked = polyseme.study(config, root=judged.run.path.parent)
    why = "No text was continued: windows of 32 tokens are shorter than a prompt of 48 tokens with 40 new ones."
    assert report_in(asked).continuations == ()
    assert why in report_in(asked).limits
    assert not [line for line in report_in(judged).limits if "continued" in line]


def test_a_study_without_causal_samples_judges_by_the_other_axes(
    result: polyseme.StudyResult, small_network: Path, small_corpus: Path
) -> None:
    changes = {"sites": ["blocks.1.resid_post"], "causal": {"n_samples": 0}}
    config = small_config(small_network, small_corpus, **JUDGED, **changes)
    table = polyseme.study(config, root=result.run.path.parent).latents()
    assert set(table["used"]) == {"unknown"}
    assert set(table["n_samples"]) == {0}
    assert np.isnan(table["expected"]).all()
    assert "yes" in {*table["recurrent"], *table["beyond_tokens"]}


def test_one_held_out_document_is_refused_before_anything_is_trained(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    tokens = {"train": 3000, "heldout": 60, "splice": 60, "heldout_fraction": 0.3}
    config = small_config(small_network, small_corpus, tokens=tokens)
    with pytest.raises(InputError, match=r"of one document.*heldout_document_tokens"):
        polyseme.study(config, root=tmp_path)
    assert not list((tmp_path / "objects").glob("dictionaries-*"))
    alone = polyseme.study({**config, "seeds": [0]}, root=tmp_path)
    assert alone.verdict_counts["undecided"] == 64
    assert all("`seeds`" in why or "held-out documents" in why for why in alone.latents()["missing"])
    faithfulness = report_in(alone).faithfulness
    assert faithfulness is not None
    bounds, recovered = faithfulness.notes
    assert bounds.startswith("These losses are of 1 held-out document, too few for intervals (6 are needed)")
    assert "(1 document, too few for an interval) is no" in recovered


def test_every_selection_of_the_report_says_of_how_many(judged: polyseme.StudyResult) -> None:
    page = " ".join(re.sub(r"<[^>]*>", " ", judged.report.read_text()).split())
    for latent in judged.shown():
        if latent.contexts:
            fires = sum(c.activations[c.focus] > 0 for c in latent.contexts)
            assert f"{fires} of its {latent.n_tokens:,} firings are shown" in page
        assert len(latent.top_tokens) <= latent.n_listed
    file = io.StringIO()
    print_summary(report_in(judged), console=Console(file=file, width=200))
    # fvu, l0, cosine, shrinkage, dead and dense; CE clean, patched, increase, recovered twice, KL.
    assert "2 of 12 metrics that are compared with the controls are shown; the report has all." in file.getvalue()


def test_a_network_that_predicts_nothing_is_not_called_better_or_worse(judged: polyseme.StudyResult) -> None:
    """Every network here is random: ln 300 = 5.70 nats, and none predicts better."""
    for comparison in report_in(judged).comparisons:
        for value in comparison.controls:
            if comparison.trained.name in ("ce_patched", "ce_increase", "ce_recovered", "kl"):
                assert math.isnan(value.gap)
                assert value.gap_interval is None
                assert "no better than a uniform guess" in value.note
            else:
                assert not value.note
    assert all("is not compared" in control.note for control in report_in(judged).summary.controls)
    assert report_in(judged).faithfulness is not None
    assert len(report_in(judged).faithfulness.notes) == 1
    assert "too few" not in report_in(judged).faithfulness.notes[0]
    page = judged.report.read_text()
    assert page.count("not compared") >= 2
    assert "CE recovered was not measured: the network&#39;s own loss" in page


def test_a_part_of_the_table_is_asked_for_by_site_and_verdict(judged: polyseme.StudyResult) -> None:
    some = judged.latents("blocks.1.resid_post", status="undecided")
    assert 0 < len(some) < 32
    assert set(some["status"]) == {"undecided"}
    assert len(some.where("blocks.0.resid_post")) == 0
    with pytest.raises(InputError, match=r"blocks\.0\.resid_post"):
        judged.latents("blocks.0.resid_pots")
    with pytest.raises(Exception, match="undecided"):  # the tests' own checks of types come first
        judged.latents(status="undecide")
    with pytest.raises(InputError, match="predicted_gaussian_reinit"):
        some["predicted_gaussian"]


def test_the_table_says_what_of_it_is_shown_and_turns_into_a_data_frame(judged: polyseme.StudyResult) -> None:
    table = judged.latents()
    assert re.match(r"64 latents at 2 sites: .*\d+ not_recurrent, \d+ undecided\n", repr(table))
    assert repr(table).splitlines()[-1].startswith("5 of 64 rows and 9 of ")
    assert repr(table.where("blocks.0.resid_post")).startswith("32 latents at 1 site: ")
    frame = table.to_pandas()
    assert frame.shape == (64, len(table.columns))
    assert frame["status"].value_counts().to_dict() == {s: n for s, n in table.counts.items() if n}


def test_the_latents_shown_are_a_selection_and_any_other_can_be_described(judged: polyseme.StudyResult) -> None:
    shown = judged.shown()
    written = report_in(judged).latents
    assert [repr(latent) for latent in shown] == [repr(latent) for latent in written]
    assert all(len(judged.shown(status=status)) <= 3 for status in judged.verdict_counts)
    one = shown[0]
    again = judged.latent(one.site, one.latent)
    for part in ("verdict", "contexts", "top_tokens", "histogram", "nearest"):
        assert repr(getattr(again, part)) == repr(getattr(one, part)), part  # repr: NaN is itself there
    places = {(latent.site, latent.latent) for latent in shown}
    rest = [row for row in judged.latents() if (row.site, row.latent) not in places]
    assert rest
    for row in rest[:3] + [row for row in rest if row.n_tokens == 0][:1]:
        described = judged.latent(row.site, row.latent)
        assert (described.verdict.status, described.n_tokens) == (row.status, row.n_tokens)
        assert bool(described.contexts) == (row.n_tokens > 0)
    with pytest.raises(InputError, match="0 to 31"):
        judged.latent(one.site, 32)
    with pytest.raises(InputError, match="no site 'nowhere'"):
        judged.latent("nowhere", 0)


def _saved(result: polyseme.StudyResult, stage: str, label: str) -> Path:
    key = result.run.record.parents[f"{stage} ({label})" if label else stage]
    return result.run.path.parent / "objects" / f"{stage}-{key[:16]}"


def test_fvu_and_l0_are_what_the_saved_files_say(result: polyseme.StudyResult, small_network: Path) -> None:
    """Recomputed with transformers and torch alone from the saved dictionary and tokens."""
    from safetensors.torch import load_file
    from transformers import GPT2LMHeadModel

    tokens = _saved(result, "tokens", "heldout")
    ids, special = np.load(tokens / "tokens.npy"), np.load(tokens / "special.npy")
    model = GPT2LMHeadModel.from_pretrained(small_network).eval()
    dictionary = polyseme.load_dictionary(_saved(result, "dictionaries", "trained") / "blocks.0.resid_post-seed0")
    weights = load_file(_saved(result, "dictionaries", "trained") / "blocks.0.resid_post-seed0/dictionary.safetensors")
    with torch.no_grad():
        hidden = model(torch.from_numpy(ids).long(), output_hidden_states=True).hidden_states[1]
    x = hidden[torch.from_numpy(~special)].double()
    pre = (x - weights["b_dec"].double()) @ weights["W_enc"].double().T + weights["b_enc"].double()
    values, indices = pre.topk(4, dim=1)
    z = torch.zeros_like(pre).scatter(1, indices, values.clamp_min(0))
    y = z @ weights["W_dec"].double() + weights["b_dec"].double()
    fvu = float((x - y).square().sum() / (x - x.mean(0)).square().sum())
    scope = {"site": "blocks.0.resid_post", "seed": 0, "study": "trained"}
    assert _metric(result, "fvu", **scope).value == pytest.approx(fvu, rel=1e-4)
    assert _metric(result, "l0", **scope).value == pytest.approx(float((z != 0).sum(1).double().mean()), rel=1e-6)
    torch.testing.assert_close(dictionary.reconstruct(x.float()).double(), y, atol=1e-4, rtol=1e-4)


def test_the_joint_cross_entropy_is_that_of_a_hand_patched_pass(
    result: polyseme.StudyResult, small_network: Path
) -> None:
    from transformers import GPT2LMHeadModel

    from polyseme.corpora import load_saved_windows
    from polyseme.studies.stages.tokens import first_windows

    windows = first_windows(load_saved_windows(_saved(result, "tokens", "heldout")), 400)
    model = GPT2LMHeadModel.from_pretrained(small_network).eval()
    folder = _saved(result, "dictionaries", "trained")
    tokens, counted = torch.from_numpy(windows.tokens).long(), torch.from_numpy(~windows.special)
    handles = []
    for block in (0, 1):
        dictionary = polyseme.load_dictionary(folder / f"blocks.{block}.resid_post-seed0")

        def patch(_: Any, __: Any, output: Any, dictionary: Any = dictionary) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[counted] = dictionary.reconstruct(hidden[counted])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handles.append(model.transformer.h[block].register_forward_hook(patch))
    with torch.no_grad():
        logits = model(tokens).logits
    keep = counted[:, 1:]
    ce = torch.nn.functional.cross_entropy(logits[:, :-1][keep].double(), tokens[:, 1:][keep])
    recorded = _metric(result, "ce_patched", site="joint", seed=0, study="trained").value
    assert recorded == pytest.approx(float(ce), abs=1e-5)
    for handle in handles:
        handle.remove()


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_a_second_run_makes_nothing_again_and_says_the_same(
    result: polyseme.StudyResult, small_network: Path, small_corpus: Path
) -> None:
    before, first = (result.run.path / "metrics.jsonl").read_bytes(), report_in(result)
    again = polyseme.study(small_config(small_network, small_corpus), root=result.run.path.parent)
    assert again.run.id == result.run.id
    assert all(stage.reused for stage in report_in(again).provenance)
    # Time is that of both processes; a stage's is what it took to make.
    assert report_in(again).summary.wall_seconds > first.summary.wall_seconds
    assert again.run.seconds >= report_in(again).summary.wall_seconds
    assert [s.seconds for s in report_in(again).provenance] == [s.seconds for s in first.provenance]
    assert (result.run.path / "metrics.jsonl").read_bytes() == before


def test_controls_share_what_they_can_and_match_width_and_l0(result: polyseme.StudyResult) -> None:
    parents = result.run.record.parents
    assert sum(stage.startswith("tokens") for stage in parents) == 2
    for control in ("gaussian_reinit", "shuffled_tokens"):
        for site in ("blocks.0.resid_post", "blocks.1.resid_post"):
            real = _metric(result, "l0", site=site, seed=0, study="trained")
            null = _metric(result, "l0", site=site, seed=0, study=control, gap=None)
            assert null.value == pytest.approx(real.value, rel=0.02)


def test_a_damaged_artifact_is_made_again(
    result: polyseme.StudyResult, small_network: Path, small_corpus: Path
) -> None:
    weights = _saved(result, "dictionaries", "trained") / "blocks.1.resid_post-seed1" / "dictionary.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    told = Told()
    polyseme.study(small_config(small_network, small_corpus), root=result.run.path.parent, reporter=told)
    assert weights.read_bytes() == good
    assert any("dictionaries" in line and "again" in line for line in told.lines)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sites": ["blocks.0.resid_pots"]}, "blocks.0.resid_post"),
        ({"sites": []}, "sites"),
        ({"seeds": [1, 1]}, "twice"),
        ({"dictionary": {"architecture": "topk", "n_latent": 8}}, "n_latents"),
        ({"dictionary": {"architecture": "tpok"}}, "architecture"),
        ({"controls": [{"kind": "gaussian_reinit"}] * 2}, "more than once: remove one or give another `seed`"),
        (
            {"tokens": {"train": 10_000_000, "heldout": 100, "splice": 100, "heldout_fraction": 0.4}},
            "the corpus is too small",
        ),
        ({"tokens": {"train": 100, "heldout": 100, "splice": 100, "heldout_fraction": 0.4, "context": 4096}}, "longer"),
        ({"corpus": {"kind": "text", "paths": ["/no/such/folder"]}}, "/no/such/folder"),
        ({"network": {"source": "/no/such/network"}}, "/no/such/network"),
        ({"name": "../up"}, "name"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(
    changes: dict[str, Any], says: str, small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        polyseme.study(small_config(small_network, small_corpus, **changes), root=tmp_path)
    assert caught.value.fix
    assert not list(tmp_path.glob("objects/dictionaries-*"))


def test_an_empty_corpus_is_said_to_be_empty(small_network: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("  \n")
    with pytest.raises(InputError, match="empty"):
        polyseme.study(small_config(small_network, tmp_path / "texts"), root=tmp_path / "runs")


def test_a_file_that_is_not_utf8_is_named_with_its_place(small_network: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "latin.txt").write_bytes(b"caf\xe9 " * 10)
    with pytest.raises(InputError, match=r"latin\.txt"):
        polyseme.study(small_config(small_network, tmp_path / "texts"), root=tmp_path / "runs")
