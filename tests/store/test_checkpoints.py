import errno
import os

import pytest
import torch

from polyseme.core.errors import InputError
from polyseme.store import latest_checkpoint, save_checkpoint
from tests.store.listener import Listener


def save(folder, step, **kwargs):
    return save_checkpoint(folder, step, {"w": torch.full((50,), float(step))}, {"step": step, "x": 0.1}, **kwargs)


def test_the_last_comes_back_and_two_are_kept(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (1, 5, 12):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000000005", "0000000012"]
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint.step == 12
    assert checkpoint.state == {"step": 12, "x": 0.1}
    assert torch.equal(checkpoint.tensors["w"], torch.full((50,), 12.0))


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_one_is_told_and_the_one_before_used(tmp_path, name, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            data[: len(data) // 2]
            + (b"" if damage == "cut" else bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        )
    listener = Listener()
    assert latest_checkpoint(tmp_path, reporter=listener).step == 1
    assert "0000000002 is damaged" in listener.messages[0]
    save(tmp_path, 2)
    assert latest_checkpoint(tmp_path).step == 2


def test_later_steps_of_work_given_up_are_deleted(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 9)
    save(tmp_path, 3)
    assert latest_checkpoint(tmp_path).step == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000000001", "0000000003"]


def test_a_full_disk_keeps_the_checkpoints_that_were_there(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["0000000001"]
    assert latest_checkpoint(tmp_path).step == 1


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 4)
    save_checkpoint(tmp_path, 4, {"w": torch.zeros(1)}, None)
    assert latest_checkpoint(tmp_path).tensors["w"].shape == (1,)
    assert len(list(tmp_path.iterdir())) == 1


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "٠١٢٣٤٥٦٧٨٩").mkdir()
    save(tmp_path, 1)
    assert latest_checkpoint(tmp_path).step == 1
    assert (tmp_path / "notes").exists()
