"""A run and its stages, killed or refused at any operation on the file system: the next one ends in the same files."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import polyseme.store.runs as runs_module
from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.store import Run, Store, list_runs, load_json, save_array, save_json, save_record, save_text
from polyseme.store.checkpoints import latest_checkpoint, save_checkpoint
from polyseme.store.provenance import Provenance
from tests.store.faults import counted, failing_from, killed_at
from tests.store.listener import Listener


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Provenance(git=None, packages={}, python="3", platform="x", argv=[])
    monkeypatch.setattr(runs_module, "provenance", lambda: known)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which matters to a power failure alone


STEP = int(os.environ.get("POLYSEME_FAULT_STEP", "11"))
"""Every how many operations one is chosen to die at; 1 takes a few minutes."""


def study(root: Path, *, fresh: bool = False) -> None:
    """A small run: one stage with notes that it is resumed from, one that rests on it, a report."""

    def train(folder: Path) -> None:
        for i in range(2):
            note = folder / "notes" / f"{i}.json"
            if not note.exists():
                save_json(note, i)
        save_array(folder / "weights.npy", np.array([load_json(folder / "notes" / f"{i}.json") for i in range(2)]))

    store = Store(root)
    run = Run.open(root, "demo", {"k": 3})
    with run.working():
        trained, weights = store.stage(
            "train", {}, {}, train, lambda a: a.array("weights.npy"), scratch=("notes",), fresh=fresh
        )
        run.add_parent("train", trained.key)
        inputs = {"train": trained.key}
        measured, value = store.stage(
            "measure",
            {},
            inputs,
            lambda folder: save_json(folder / "sub" / "value.json", float(weights.sum())),
            lambda a: a.json("sub/value.json"),
            fresh=fresh,
        )
        run.add_parent("measure", measured.key)
        run.save_metrics([MetricRecord(name="fvu", value=value, n=1)])
        save_record(run.artifacts / "report.json", {"value": value})
        save_text(run.artifacts / "report.html", f"<p>{value}")


TIMED = {"run.json", "events.jsonl", "manifest.json"}


def tree(root: Path) -> dict[str, str]:
    """Every path below, with the hash of what it holds where that is not a time."""
    return {
        path.relative_to(root).as_posix(): ""
        if path.is_dir() or path.name in TIMED
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
    }


def whole(root: Path) -> tuple[dict[str, str], int]:
    """What an undisturbed study leaves, and how many operations it takes."""
    with counted(lambda *_: None) as seen:
        study(root)
    return tree(root), len(seen)


def test_killed_at_any_operation_it_resumes_to_the_same_files(tmp_path: Path) -> None:
    expected, n_operations = whole(tmp_path / "whole")
    assert n_operations > 100
    for n in range(1, n_operations + 1, STEP):
        root = tmp_path / str(n)
        assert killed_at(n, lambda root=root: study(root))
        study(root)
        assert tree(root) == expected, f"killed before operation {n}"
        assert list_runs(root)[0].record.status == "complete"


def test_killed_again_and_again_it_comes_to_an_end(tmp_path: Path) -> None:
    expected, _ = whole(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for round_ in range(2):
        root = tmp_path / str(round_)
        kills = 0
        while killed_at(int(rng.integers(1, 90)), lambda root=root: study(root)):
            kills += 1
            assert kills < 100
        assert tree(root) == expected


def test_made_afresh_and_killed_at_any_operation_it_resumes_to_the_same_files(tmp_path: Path) -> None:
    expected, _ = whole(tmp_path / "whole")
    n = 0
    alive = True
    while alive:
        n += STEP
        root = tmp_path / str(n)
        study(root)
        alive = killed_at(n, lambda root=root: study(root, fresh=True))
        study(root)
        assert tree(root) == expected, f"killed before operation {n}"


def said_what_helps(work: Callable[[], object]) -> bool:
    """Whether the work was refused; in words, if it was."""
    try:
        work()
    except InputError as error:
        return bool(error.fix)
    return False


@pytest.mark.parametrize("for_good", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_refused_at_any_operation_it_says_so_and_resumes_to_the_same_files(
    tmp_path: Path, number: int, for_good: bool
) -> None:
    expected, n_operations = whole(tmp_path / "whole")
    refused = 0
    for n in range(1, n_operations + 1, STEP):
        root = tmp_path / str(n)
        with counted(failing_from(n, number, for_good=for_good)):
            refused += said_what_helps(lambda root=root: study(root))
        study(root)
        assert tree(root) == expected, f"refused at operation {n}"
    assert refused > n_operations / STEP / 3


def test_a_checkpoint_survives_a_kill_at_every_operation(tmp_path: Path) -> None:
    import torch

    def save(folder: Path, step: int) -> None:
        save_checkpoint(folder, step, {"w": torch.full((3,), float(step))}, {"step": step})

    n, alive = 0, True
    while alive:
        n += 1
        folder = tmp_path / str(n)
        for step in (1, 2):
            save(folder, step)
        alive = killed_at(n, lambda folder=folder: save(folder, 3))
        listener = Listener()
        found = latest_checkpoint(folder, reporter=listener)
        assert found is not None
        assert found.step in (2, 3)
        assert found.tensors["w"].tolist() == [float(found.step)] * 3
        assert listener.messages == []
        save(folder, 4)
        assert not list(folder.glob(".*")), n
        assert len(list(folder.iterdir())) == 2


def test_a_disk_without_inodes_is_not_told_to_free_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[7] = 0  # f_favail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="inodes") as caught:
        save_json(tmp_path / "a.json", 1)
    assert "MB" not in str(caught.value)
