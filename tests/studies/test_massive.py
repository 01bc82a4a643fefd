"""A network with attention sinks: the study says so, shows both figures, and can train and patch without them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polyseme
from polyseme.activations.massive import SpreadSums
from polyseme.activations.reading import read_windows
from polyseme.core.progress import Silent
from polyseme.core.records import MetricRecord
from polyseme.corpora import StdlibCorpusConfig, load_windows
from polyseme.networks import load_network
from tests.studies.small import shown as report_in
from tests.studies.small import small_config
from tests.tiny import tiny_gpt2, tiny_tokenizer

SITE = "blocks.0.resid_post"


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def sinks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 whose vectors at the first counted position are a few hundred times as long."""
    folder, model = tmp_path_factory.mktemp("sinks"), tiny_gpt2()
    with torch.no_grad():
        model.transformer.wpe.weight[1] += 400 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


Run = tuple[polyseme.StudyResult, list[str]]


@pytest.fixture(scope="module")
def runs(sinks: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same study with the massive vectors trained on, left out by norm, and by position."""
    root, out = tmp_path_factory.mktemp("runs"), {}
    ways = {"plain": {}, "norm": {"norm": 10.0}, "positions": {"positions": 2}}
    for name, leave_out in ways.items():
        config = small_config(sinks, small_corpus, name=name, sites=[SITE], controls=[{"kind": "gaussian_reinit"}])
        config["training"] = {**config["training"], "leave_out": leave_out}
        config["verdicts"] = {"min_documents": 2}  # rarer latents are not removed from any token
        told = Told()
        out[name] = polyseme.study(config, root=root, reporter=told), told.lines
    return out


def metric(run: Run, name: str, **scope: Any) -> MetricRecord:
    asked = {"study": "trained", "site": SITE, **scope}
    found = [r for r in run[0].run.metrics if r.name == name and all(r.scope.get(k) == v for k, v in asked.items())]
    found = [r for r in found if r.scope.get("seed", 0) == 0 and "gap" not in r.scope]
    assert len(found) == 1, (name, [r.scope for r in found])
    return found[0]


def test_massive_vectors_are_told_before_training(runs: dict[str, Run]) -> None:
    lines = [line for line in runs["plain"][1] if "massive" in line]
    assert len(lines) == 1, "of the network, and not of its control, whose embeddings are drawn again"
    assert lines[0].startswith(f"{SITE}: ")
    assert "train vectors are massive" in lines[0]
    assert "at position 1 (" in lines[0]
    assert "training.leave_out.norm = 10" in lines[0]
    assert "training leaves them out" in next(line for line in runs["norm"][1] if "massive" in line)


def test_both_figures_are_shown_and_training_without_them_helps_the_others(runs: dict[str, Run]) -> None:
    plain, norm = runs["plain"], runs["norm"]
    all_of_them, ordinary = metric(plain, "fvu"), metric(plain, "fvu_ordinary")
    assert ordinary.details["left_out"] == all_of_them.n - ordinary.n > 0
    assert all_of_them.value < ordinary.value / 2
    assert metric(norm, "fvu_ordinary").value < 0.9 * ordinary.value
    assert metric(norm, "fvu_token_ordinary", site="transformer.h.0.out").n == ordinary.n
    for run in (plain, norm):
        report = report_in(run[0])
        shown = {record.name for record in report.dictionaries[0].metrics}
        assert {"fvu", "fvu_ordinary", "fvu_token", "fvu_token_ordinary"} <= shown
        compared = {c.trained.name: c for c in report.comparisons}
        assert [value.control for value in compared["fvu_ordinary"].controls] == ["gaussian_reinit"]
        assert "of ordinary vectors" in " ".join(report.headlines)
        page = run[0].report.read_text()
        assert "FVU, ordinary vectors" in page
        assert "train vectors are massive" in page


def test_the_control_has_a_scale_of_its_own(runs: dict[str, Run]) -> None:
    """Re-initialised embeddings have no long position, so nothing of the control is left out by norm."""
    control = metric(runs["norm"], "fvu_ordinary", study="gaussian_reinit")
    assert control.details["left_out"] == 0
    assert control.value == metric(runs["norm"], "fvu", study="gaussian_reinit").value


def test_what_training_left_out_is_not_patched_and_never_fires(runs: dict[str, Run]) -> None:
    plain, norm = runs["plain"], runs["norm"]
    assert metric(plain, "ce_patched_ordinary").value != metric(plain, "ce_patched").value
    assert metric(norm, "ce_patched_all").value != metric(norm, "ce_patched").value
    assert not [r for r in norm[0].run.metrics if r.name == "ce_patched_ordinary"]
    assert "trained without them" in report_in(norm[0]).dictionaries[0].massive
    assert "squared activation there" in report_in(plain[0]).dictionaries[0].massive
    for name, silent in (("plain", False), ("norm", True), ("positions", True)):
        result = runs[name][0]
        folder = result.run.path.parent / "objects" / f"readings-{result.run.record.parents['readings (trained)'][:16]}"
        rows = np.load(folder / f"{SITE}.left_out.npy")
        counts = np.diff(np.load(folder / f"{SITE}-seed0.indptr.npy"))
        position = np.load(folder / f"{SITE}-seed0.position.npy")
        assert (position[rows] == 1).all()
        assert len(rows) == (position == 1).sum()
        assert (counts[rows] == 0).all() == silent
        assert (counts > 0).any()


def test_random_latents_do_not_fire_at_massive_vectors_that_training_leaves_in(runs: dict[str, Run]) -> None:
    """They would fire there far more than anywhere else, and match every latent that does."""
    findings = runs["plain"][0].findings
    random = findings.at.of(findings.plan.real.matching).random(SITE)
    for side in (random.learn, random.heldout):
        counts = np.diff(side.matrix.indptr)
        assert (side.position == 1).any()
        assert (counts[side.position == 1] == 0).all()
        assert (counts > 0).mean() > 0.9


def test_by_position_is_as_by_norm_where_all_stand_at_one(runs: dict[str, Run]) -> None:
    for name in ("fvu", "fvu_ordinary", "ce_patched", "ce_mean", "ce_patched_all"):
        assert metric(runs["positions"], name).value == metric(runs["norm"], name).value, name
    assert "positions 0 to 1" in report_in(runs["positions"][0]).dictionaries[0].massive


def test_a_network_without_them_says_nothing(small_network: Path, small_corpus: Path, tmp_path: Path) -> None:
    told = Told()
    config = small_config(small_network, small_corpus, sites=[SITE], controls=[])
    result = polyseme.study(config, root=tmp_path, reporter=told)
    assert not [line for line in told.lines if "massive" in line]
    assert report_in(result).dictionaries[0].massive == ""
    assert "fvu_ordinary" not in {record.name for record in report_in(result).dictionaries[0].metrics}
    fvu, ordinary = (next(r for r in result.run.metrics if r.name == name) for name in ("fvu", "fvu_ordinary"))
    assert fvu.value == ordinary.value
    dictionaries = result.run.record.parents["dictionaries (trained)"]
    plain = config["training"]
    config["training"] = {**plain, "leave_out": {}}
    again = polyseme.study(config, root=tmp_path)
    assert again.run.record.parents["dictionaries (trained)"] == dictionaries


def test_no_alarm_on_the_shipped_network() -> None:
    network = load_network("pylm")
    windows = load_windows(
        StdlibCorpusConfig().build(),
        network.tokenizer,
        split="train",
        context=128,
        max_tokens=3000,
        document_tokens=256,
    )
    names = [f"blocks.{i}.{part}" for i in (0, 2) for part in ("resid_post", "mlp_out", "mlp_post", "attn_out")]
    sums = {network.site(name): SpreadSums() for name in names}
    for reading in read_windows(network, windows, list(sums), batch_windows=8):
        for site, of_site in sums.items():
            of_site.see(reading.vectors[site], reading.position)
    found = {str(site): of_site.finish().massive() for site, of_site in sums.items()}
    assert not [(site, m.sentence) for site, m in found.items() if m.telling]


def test_a_loss_is_that_of_passes_by_hand_and_what_rests_on_massive_vectors_is_counted(
    runs: dict[str, Run], sinks: Path
) -> None:
    """ΔCE of one latent by two passes of the network alone, and the latents that rest on massive vectors counted."""
    result = runs["plain"][0]
    table, findings = result.latents(), result.findings
    effects, firings = findings.effects[SITE], findings.real.readings.firings[SITE, 0]
    latent = int(np.argmax(effects.n_tokens * (firings.columns.max(axis=0).toarray().ravel() > 0)))
    rows = effects.sample_row[effects.sample_latent == latent]
    write = findings.real.trained.dictionaries[SITE, 0].write_directions()[latent].detach()
    model = polyseme.load_network(sinks).module.eval()
    changes = [
        _change(
            model,
            torch.from_numpy(findings.real.subject.tokens.heldout.tokens[firings.window[row]]).long(),
            int(firings.position[row]),
            float(firings.matrix[[row], [latent]].item()) * write,
        )
        for row in rows
    ]
    assert np.abs(changes).max() > 1e-3
    assert table["loss"][latent] == pytest.approx(np.mean(changes), abs=1e-5)

    at, sizes = np.isin(effects.sample_row, findings.real.readings.left_out[SITE]), effects.sample_kl.astype(float)
    n = sum(
        sizes[at & (effects.sample_latent == i)].sum() > 0.5 * sizes[effects.sample_latent == i].sum()
        for i in range(32)
    )
    said = f", {n} more than half of their summed effect on predictions (KL);"
    assert said in report_in(result).dictionaries[0].massive


def _change(model: Any, tokens: torch.Tensor, position: int, vector: torch.Tensor) -> float:
    """CE of the token after a position with a vector taken away there at the site, less the CE as it is."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[0, position] -= vector
        return (x, *output[1:]) if isinstance(output, tuple) else x

    losses: list[float] = []
    with torch.no_grad():
        for edited in (False, True):
            handle = model.transformer.h[0].register_forward_hook(hook) if edited else None
            logits = model(tokens[None]).logits[0, position].double()
            losses.append(-float(logits.log_softmax(-1)[tokens[position + 1]]))
            if handle:
                handle.remove()
    return losses[1] - losses[0]
