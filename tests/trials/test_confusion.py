"""The confusion matrix: rows counted by hand, kept rows, and one small row by the command."""

from pathlib import Path

import pytest

from polyseme.cli.main import run
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.diagnosis import Answer, Diagnosis, DiagnosisConfig
from polyseme.trials.diagnosis import CLASSES, NULLS, Case, ConfusionConfig, Row, as_markdown, confusion

SMALL = DiagnosisConfig(n_resamples=20, n_null=200, max_rows=512)


def case(seed: int, answer: Answer) -> Case:
    site = Site(path="hidden")
    found = Diagnosis(answer=answer, reason="so", site=site, evidence=(), n_rows=9, n_neurons=2, features=())
    return Case(seed=seed, diagnosis=found)


def test_a_row_counts_wrong_answers_apart_from_silent_ones() -> None:
    answers: list[Answer] = ["superposition", "superposition", "abstain", "none", "rotated"]
    row = Row(name="x", right=("superposition",), cases=tuple(map(case, range(5), answers)), skipped=2)
    assert row.share(*row.right)[0] == 0.4
    assert row.wrong[0] == 0.2
    null = row.model_copy(update={"right": ()})
    assert null.wrong[0] == pytest.approx(0.6)
    text = as_markdown([row])
    assert "| x | 5 | 40% | 20% | 20% | 20% | 40% [12%, 77%] | 20% [4%, 62%] |" in text.replace("| superposition", "")
    assert "so (1)" in text
    assert "- x: 2" in text


def test_rows_are_named_once_and_an_unknown_one_is_refused() -> None:
    names = [kind.name for kind in (*CLASSES, *NULLS)]
    assert len(set(names)) == len(names)
    with pytest.raises(InputError, match="sparse TMS"):
        confusion(ConfusionConfig(rows=("sparse TSM",)))


def test_a_kept_row_is_taken_and_splits_share_no_network(tmp_path: Path) -> None:
    def one(split: str) -> Row:
        config = ConfusionConfig.model_validate(
            {"split": split, "n_seeds": 2, "rows": ("universal AND",), "diagnosis": SMALL}
        )
        return next(iter(confusion(config, root=tmp_path)))

    first = one("calibration")
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("row.json")}
    assert one("calibration") == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("row.json")} == files
    other = one("test")
    assert {c.seed for c in first.cases}.isdisjoint(c.seed for c in other.cases)
    assert first.cases[0].diagnosis.n_neurons != other.cases[0].diagnosis.n_neurons


def test_the_command_writes_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rows", "bit extraction", "--n-seeds", "1", "--diagnosis.max-rows", "512"]
    assert run(["zoo", "confusion", *flags, "--out", str(tmp_path / "o"), "--root", str(tmp_path)]) == 0
    assert "| bit extraction | 1 |" in capsys.readouterr().out
    assert (tmp_path / "o" / "calibration.json").is_file()
    assert "bit extraction" in (tmp_path / "o" / "calibration.md").read_text()
