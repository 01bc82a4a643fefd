import errno
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.store import Store, files, save_array, save_json, sha256
from tests.store.listener import Listener


class Maker:
    """A stage of three files that goes on from those it finds, and counts what it wrote."""

    def __init__(self, die_after=99):
        self.written, self.die_after = [], die_after

    def __call__(self, folder):
        for i in range(3):
            path = folder / f"shard-{i}.npy"
            if not path.exists():
                if len(self.written) == self.die_after:
                    raise RuntimeError("killed")
                save_array(path, np.full(10, i))
                self.written.append(i)
        save_json(folder / "sub" / "index.json", {"shards": 3})


def test_made_once_then_found(tmp_path):
    make = Maker()
    first = Store(tmp_path).stage("harvest", {"n": 3}, {"network": "abc"}, make)
    second = Store(tmp_path).stage("harvest", {"n": 3}, {"network": "abc"}, make)
    assert make.written == [0, 1, 2]
    assert first == second
    assert first.key == fingerprint(
        {"stage": "harvest", "version": 1, "config": {"n": 3}, "inputs": {"network": "abc"}}
    )
    assert second.path.name == f"harvest-{first.key[:16]}"
    np.testing.assert_array_equal(second.array("shard-2.npy"), np.full(10, 2))
    assert second.json("sub/index.json") == {"shards": 3}
    assert Store(tmp_path).find("harvest", first.key) == first


@pytest.mark.parametrize(
    "change",
    [
        {"name": "harvest2"},
        {"config": {"n": 4}},
        {"inputs": {"network": "abd"}},
        {"inputs": {"corpus": "abc"}},
        {"version": 2},
    ],
)
def test_everything_that_makes_an_artifact_is_in_its_key(tmp_path, change):
    arguments = {"name": "harvest", "config": {"n": 3}, "inputs": {"network": "abc"}, "make": Maker(), "version": 1}
    store = Store(tmp_path)
    assert store.stage(**arguments).key != store.stage(**{**arguments, **change}).key


def test_a_failed_make_goes_on_from_what_it_wrote(tmp_path):
    store, killed, resumed = Store(tmp_path), Maker(die_after=2), Maker()
    with pytest.raises(RuntimeError):
        store.stage("harvest", {}, {}, killed)
    assert not [path for path in store.objects.iterdir() if not path.name.endswith((".partial", ".locks"))]
    store.stage("harvest", {}, {}, resumed)
    assert (killed.written, resumed.written) == ([0, 1], [2])


def test_a_killed_process_leaves_a_partial_folder_that_is_resumed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from polyseme.store import Store, save_json\n"
        "def make(folder):\n"
        "    save_json(folder / 'first.json', 1); (folder / '.second.json.1-1.tmp').write_text('half')\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "Store(Path(sys.argv[1])).stage('harvest', {}, {}, make)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = []

    def make(folder):
        found.extend(sorted(path.name for path in folder.iterdir()))
        save_json(folder / "second.json", 2)

    artifact = Store(tmp_path).stage("harvest", {}, {}, make)
    assert found == ["first.json"]
    assert sorted(artifact.records) == ["first.json", "second.json"]


DAMAGE = {
    "flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_only_the_damaged_file_is_made_again_and_the_user_is_told(tmp_path, damage):
    artifact = Store(tmp_path).stage("harvest", {}, {}, Maker())
    DAMAGE[damage](artifact.path / "shard-1.npy")
    make, listener = Maker(), Listener()
    with pytest.raises(DamagedArtifact, match=r"shard-1\.npy"):
        Store(tmp_path).find("harvest", artifact.key)
    again = Store(tmp_path).stage("harvest", {}, {}, make, reporter=listener)
    assert make.written == [1]
    assert len(listener.messages) == 1
    assert "shard-1.npy" in listener.messages[0]
    np.testing.assert_array_equal(again.array("shard-1.npy"), np.full(10, 1))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 1}'])
def test_a_damaged_manifest_is_never_trusted(tmp_path, text):
    artifact = Store(tmp_path).stage("harvest", {}, {}, Maker())
    (artifact.path / "manifest.json").write_text(text)
    make = Maker()
    Store(tmp_path).stage("harvest", {}, {}, make, reporter=Listener())
    assert make.written == [0, 1, 2]


def test_a_manifest_that_points_outside_is_refused(tmp_path):
    artifact = Store(tmp_path).stage("harvest", {}, {}, Maker())
    path = artifact.path / "manifest.json"
    path.write_text(path.read_text().replace("shard-0.npy", "../../secret.npy"))
    with pytest.raises(DamagedArtifact, match="outside"):
        Store(tmp_path).find("harvest", artifact.key)


def test_a_maker_that_takes_leftovers_for_finished_work_starts_from_nothing(tmp_path):
    def make(folder):
        if not (folder / "index.json").exists():
            save_array(folder / "shard.npy", np.zeros(3))
            save_json(folder / "index.json", 1)

    artifact = Store(tmp_path).stage("harvest", {}, {}, make)
    (artifact.path / "shard.npy").unlink()
    again = Store(tmp_path).stage("harvest", {}, {}, make, reporter=Listener())
    assert sorted(again.records) == ["index.json", "shard.npy"]


def test_damage_after_verification_is_noticed_on_reading(tmp_path):
    artifact = Store(tmp_path).stage("harvest", {}, {}, Maker())
    DAMAGE["cut short"](artifact.path / "shard-0.npy")
    with pytest.raises(DamagedArtifact, match="run the study again"):
        artifact.array("shard-0.npy")
    with pytest.raises(InputError, match="no file"):
        artifact.json("../manifest.json")


def test_each_file_is_hashed_once_a_process(tmp_path, monkeypatch):
    key = Store(tmp_path).stage("harvest", {}, {}, Maker()).key
    store, hashed = Store(tmp_path), []
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    for _ in range(3):
        store.find("harvest", key)
    assert sorted(hashed) == ["index.json", "shard-0.npy", "shard-1.npy", "shard-2.npy"]
    artifact = store.stage("made", {}, {}, Maker())
    hashed.clear()
    store.find("made", artifact.key)
    assert hashed == []


def test_two_at_once_make_it_once(tmp_path):
    started, makes, listener, results = threading.Event(), [], Listener(), []

    def make(folder):
        makes.append(1)
        started.set()
        time.sleep(0.5)
        save_json(folder / "a.json", 1)

    def work(reporter):
        results.append(Store(tmp_path).stage("harvest", {}, {}, make, reporter=reporter))

    first = threading.Thread(target=work, args=(Listener(),))
    first.start()
    started.wait()
    work(listener)
    first.join()
    assert len(makes) == 1
    assert results[0] == results[1]
    assert f"another process ({os.getpid()})" in listener.messages[0]


def test_a_full_disk_while_making_is_an_input_error_and_can_be_resumed(tmp_path, monkeypatch):
    store, make = Store(tmp_path), Maker()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="disk is full"):
            store.stage("harvest", {}, {}, make)

    def by_other_means(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"free \d+ MB"):
        store.stage("harvest", {}, {}, by_other_means)
    assert store.stage("harvest", {}, {}, make).json("sub/index.json") == {"shards": 3}


def test_a_discarded_artifact_is_made_again_and_others_stay(tmp_path):
    store, make = Store(tmp_path), Maker()
    for n in (1, 2):
        store.stage("harvest", {"n": n}, {}, make)
    store.discard("harvest", {"n": 1}, {})
    store.discard("harvest", {"n": 3}, {})
    make.written.clear()
    store.stage("harvest", {"n": 2}, {}, make)
    assert make.written == []
    store.stage("harvest", {"n": 1}, {}, make)
    assert make.written == [0, 1, 2]


def test_a_root_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(InputError, match="folder that you may write"):
        Store(tmp_path / "root")


def test_an_unknown_artifact_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no artifact"):
        Store(tmp_path).find("../..", "0" * 64)
