import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.store import Store, files, find_run, list_runs, load_json, save_array, save_json, sha256
from polyseme.store.artifacts import Manifest
from polyseme.store.locks import lock
from tests.store.listener import Listener


class Maker:
    """A stage of three files that resumes from notes in its scratch, and counts the files it worked out."""

    def __init__(self, die_after=99):
        self.written, self.die_after = [], die_after

    def __call__(self, folder):
        assert {path.name for path in folder.iterdir()} <= {"notes", ".work.json"}
        for i in range(3):
            note = folder / "notes" / f"{i}.json"
            if not note.exists():
                if len(self.written) == self.die_after:
                    raise RuntimeError("killed")
                save_json(note, i)
                self.written.append(i)
            save_array(folder / f"shard-{i}.npy", np.full(10, load_json(note)))
        save_json(folder / "sub" / "index.json", {"shards": 3})


def stage(store, name, config, inputs, make, load=lambda _: None, **options):
    return store.stage(name, config, inputs, make, load, scratch=("notes",), **options)[0]


def test_made_once_then_found(tmp_path):
    make = Maker()
    first = stage(Store(tmp_path), "harvest", {"n": 3}, {"network": "abc"}, make)
    second = stage(Store(tmp_path), "harvest", {"n": 3}, {"network": "abc"}, make)
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
    assert stage(store, **arguments).key != stage(store, **{**arguments, **change}).key


def test_a_failed_make_goes_on_from_what_it_wrote(tmp_path):
    store, killed, resumed = Store(tmp_path), Maker(die_after=2), Maker()
    with pytest.raises(RuntimeError):
        stage(store, "harvest", {}, {}, killed)
    assert not [path for path in store.objects.iterdir() if not path.name.endswith((".partial", ".locks"))]
    stage(store, "harvest", {}, {}, resumed)
    assert (killed.written, resumed.written) == ([0, 1], [2])


def test_a_killed_process_leaves_a_partial_folder_that_is_resumed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from polyseme.store import Store, save_json\n"
        "def make(folder):\n"
        "    save_json(folder / 'notes' / 'a.json', 1); (folder / 'notes' / '.b.json.1-1.tmp').write_text('half')\n"
        "    save_json(folder / 'first.json', 1); (folder / 'notes' / 'link').symlink_to('/etc')\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "Store(Path(sys.argv[1])).stage('harvest', {}, {}, make, print, scratch=('notes',))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = []

    def make(folder):
        found.extend(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")))
        save_json(folder / "second.json", 2)

    artifact = stage(Store(tmp_path), "harvest", {}, {}, make)
    assert found == [".work.json", "notes", "notes/a.json"]
    assert sorted(artifact.records) == ["second.json"]
    assert sorted(path.name for path in artifact.path.iterdir()) == ["manifest.json", "second.json"]
    assert list((tmp_path / "objects").rglob(".locks/*")) == []


def _instead(path, make):
    path.unlink()
    make(path)


DAMAGE = {
    "flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\x01" + path.read_bytes()[-8:]),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: _instead(path, Path.mkdir),
    "a folder with a file": lambda path: _instead(path, lambda p: (p.mkdir(), (p / "x").write_text("x"))),
    "a link that leads nowhere": lambda path: _instead(path, lambda p: p.symlink_to("/no/such/file")),
    "a pipe": lambda path: _instead(path, os.mkfifo),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("name", ["shard-1.npy", "sub/index.json", "manifest.json"])
def test_a_damaged_artifact_is_made_again_and_the_user_is_told(tmp_path, damage, name):
    artifact = stage(Store(tmp_path), "harvest", {}, {}, Maker())
    whole = {path: (artifact.path / path).read_bytes() for path in artifact.records}
    DAMAGE[damage](artifact.path / name)
    make, listener = Maker(), Listener()
    with pytest.raises(DamagedArtifact, match=name.split("/")[-1].replace(".", r"\.")):
        Store(tmp_path).find("harvest", artifact.key)
    again = stage(Store(tmp_path), "harvest", {}, {}, make, reporter=listener)
    assert make.written == [0, 1, 2]
    assert len(listener.messages) == 1
    assert name in listener.messages[0]
    assert {path: (again.path / path).read_bytes() for path in again.records} == whole
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [again.path.name, ".locks"]


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("name", [".work.json", "manifest.json", "shard-0.npy", "notes"])
def test_a_partial_folder_with_anything_in_it_is_resumed(tmp_path, name, damage):
    with pytest.raises(RuntimeError):
        stage(Store(tmp_path), "harvest", {}, {}, Maker(die_after=2))
    (partial,) = (tmp_path / "objects").glob("*.partial")
    if name == "notes":
        files.remove(partial / name)
    (partial / name).write_text("0123456789")
    DAMAGE[damage](partial / name)
    artifact = stage(Store(tmp_path), "harvest", {}, {}, Maker(), reporter=Listener())
    assert sorted(artifact.records) == ["shard-0.npy", "shard-1.npy", "shard-2.npy", "sub/index.json"]
    np.testing.assert_array_equal(artifact.array("shard-0.npy"), np.zeros(10))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 1}'])
def test_a_damaged_manifest_is_never_trusted(tmp_path, text):
    artifact = stage(Store(tmp_path), "harvest", {}, {}, Maker())
    (artifact.path / "manifest.json").write_text(text)
    make = Maker()
    stage(Store(tmp_path), "harvest", {}, {}, make, reporter=Listener())
    assert make.written == [0, 1, 2]


def test_a_manifest_that_points_outside_is_refused(tmp_path):
    artifact = stage(Store(tmp_path), "harvest", {}, {}, Maker())
    path = artifact.path / "manifest.json"
    record = files.load_record(path)
    record["files"]["../../secret.npy"] = record["files"].pop("shard-0.npy")
    files.save_record(path, record)
    with pytest.raises(DamagedArtifact, match="outside"):
        Store(tmp_path).find("harvest", artifact.key)


def test_a_file_that_vanishes_while_the_others_are_made_is_made_again(tmp_path):
    """A scratch disk's own cleaner deletes what it thinks is old, in the middle of a long stage."""
    calls = []

    def make(folder):
        calls.append(1)
        for name in ("old.npy", "new.npy"):
            save_array(folder / name, np.zeros(3))
        if len(calls) == 1:
            (folder / "old.npy").unlink()

    def load(artifact):
        return artifact.array("old.npy"), artifact.array("new.npy")

    listener = Listener()
    artifact = stage(Store(tmp_path), "harvest", {}, {}, make, load, reporter=listener)
    assert sorted(artifact.records) == ["new.npy", "old.npy"]
    assert len(calls) == 2
    assert "old.npy" in listener.messages[0]


def test_an_artifact_published_without_a_file_is_made_again(tmp_path):
    def make(folder):
        save_json(folder / "a.json", 1)
        save_json(folder / "b.json", 2)

    stage(Store(tmp_path), "harvest", {}, {}, lambda folder: save_json(folder / "a.json", 1))
    load = lambda artifact: (artifact.json("a.json"), artifact.json("b.json"))  # noqa: E731
    found = Store(tmp_path).stage("harvest", {}, {}, make, load, reporter=Listener())
    assert found[1] == (1, 2)


def test_scratch_that_is_refused_is_started_from_the_beginning(tmp_path):
    def killed(folder):
        save_json(folder / "notes" / "a.json", "of another network")
        raise RuntimeError("killed")

    def make(folder):
        if (folder / "notes" / "a.json").exists():
            raise DamagedArtifact("these notes are another network's", where=str(folder / "notes"))
        save_json(folder / "a.json", 1)

    with pytest.raises(RuntimeError):
        stage(Store(tmp_path), "harvest", {}, {}, killed)
    listener = Listener()
    assert stage(Store(tmp_path), "harvest", {}, {}, make, reporter=listener).json("a.json") == 1
    assert "from the beginning" in listener.messages[0]


def test_damage_elsewhere_is_no_reason_to_delete_the_scratch(tmp_path):
    def make(folder):
        save_json(folder / "notes" / "a.json", 1)
        raise DamagedArtifact("an input is damaged", where="/elsewhere/a.json")

    with pytest.raises(DamagedArtifact, match="an input"):
        stage(Store(tmp_path), "harvest", {}, {}, make)
    assert len(list(tmp_path.rglob("notes/a.json"))) == 1


def test_damage_after_verification_is_noticed_on_reading(tmp_path):
    artifact = stage(Store(tmp_path), "harvest", {}, {}, Maker())
    DAMAGE["cut short"](artifact.path / "shard-0.npy")
    with pytest.raises(DamagedArtifact, match="run the study again"):
        artifact.array("shard-0.npy")
    with pytest.raises(DamagedArtifact, match="no file"):
        artifact.json("../manifest.json")


def test_each_file_is_hashed_once_a_process(tmp_path, monkeypatch):
    key = stage(Store(tmp_path), "harvest", {}, {}, Maker()).key
    store, hashed = Store(tmp_path), []
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    for _ in range(3):
        store.find("harvest", key)
    assert sorted(hashed) == ["index.json", "shard-0.npy", "shard-1.npy", "shard-2.npy"]
    artifact = stage(store, "made", {}, {}, Maker())
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
        results.append(stage(Store(tmp_path), "harvest", {}, {}, make, reporter=reporter))

    first = threading.Thread(target=work, args=(Listener(),))
    first.start()
    assert started.wait(20)
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
            stage(store, "harvest", {}, {}, make)

    def by_other_means(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"free \d+ MB"):
        stage(store, "harvest", {}, {}, by_other_means)
    assert stage(store, "harvest", {}, {}, make).json("sub/index.json") == {"shards": 3}


def test_an_artifact_is_made_afresh_where_that_is_asked_for_and_the_old_one_stays_until_then(tmp_path):
    store = Store(tmp_path)
    for n in (1, 2):
        stage(store, "harvest", {"n": n}, {}, Maker())
    with pytest.raises(RuntimeError):
        stage(store, "harvest", {"n": 1}, {}, Maker(die_after=1), fresh=True)
    make = Maker()
    stage(store, "harvest", {"n": 1}, {}, make)
    stage(store, "harvest", {"n": 2}, {}, make)
    assert make.written == []
    stage(store, "harvest", {"n": 1}, {}, make, fresh=True)
    assert make.written == [0, 1, 2]


def test_a_folder_whose_name_alone_is_missing_is_finished_without_work(tmp_path, monkeypatch):
    """Between the last write and the rename of a long training, a kill must not cost the training."""

    def killed(_from, to):
        if Path(to).name.startswith("harvest-") and not Path(to).name.endswith(".partial"):
            raise RuntimeError("killed")
        return rename(_from, to)

    rename = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(RuntimeError):
            stage(Store(tmp_path), "harvest", {}, {}, Maker())
    make = Maker()
    artifact = stage(Store(tmp_path), "harvest", {}, {}, make)
    assert make.written == []
    assert artifact.json("sub/index.json") == {"shards": 3}
    assert not (artifact.path / "notes").exists()


def test_the_seconds_are_those_of_all_processes_also_of_killed_ones(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def working(seconds, then=None):
        def make(folder):
            clock[0] += seconds
            if then is not None:
                raise then
            save_json(folder / "a.json", 1)

        return make

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stage(store, "harvest", {}, {}, working(40, KeyboardInterrupt()))
    clock[0] += 5000  # nobody works at it
    with pytest.raises(RuntimeError):
        stage(store, "harvest", {}, {}, working(7, RuntimeError()))
    # A killed process: its lock stays behind with the time of its last sign of life.
    partial = next(store.objects.glob("*.partial"))
    files.save_record(partial / ".work.json", {"started": clock[0], "seconds": 47.0})
    lock = store.objects / ".locks" / partial.name.removesuffix(".partial")
    lock.write_text("999999999 somewhere")
    os.utime(lock, (clock[0] + 300, clock[0] + 300))
    clock[0] += 9000
    artifact = stage(store, "harvest", {}, {}, working(3))
    assert artifact.seconds == pytest.approx(40 + 7 + 300 + 3, abs=0.01)
    assert Manifest.model_validate(files.load_record(artifact.path / "manifest.json")).seconds == artifact.seconds
    assert stage(Store(tmp_path), "harvest", {}, {}, working(1)).seconds == artifact.seconds


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("file", "a file stands where"),
        ("file/below", "a file stands where"),
        ("no\0where", "NUL"),
        ("x" * 300, "too long"),
        ("loop", "link"),
        ("nowhere", "link that leads nowhere"),
    ],
)
def test_a_root_that_cannot_be_is_an_input_error(tmp_path, root, says):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    for look in (Store, list_runs, lambda path: find_run(path, "x")):
        with pytest.raises(InputError, match=says) as caught:
            look(tmp_path / root)
        assert caught.value.fix


def test_a_root_may_be_a_link_and_its_name_need_not_be_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"runs-\xff\xfe")
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    stage(Store(tmp_path / "link"), "harvest", {}, {}, Maker())
    make = Maker()
    stage(Store(folder), "harvest", {}, {}, make)
    assert make.written == []


def test_an_unknown_artifact_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no artifact"):
        Store(tmp_path).find("../..", "0" * 64)


@pytest.mark.parametrize("place", ["objects", "objects/.locks", "lock", "partial", "inside", "final"])
def test_nothing_is_written_through_links_among_the_artifacts(tmp_path, place):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    root = tmp_path / "runs"
    artifact = stage(Store(root), "harvest", {}, {}, Maker())
    files.remove(artifact.path)
    partial = artifact.path.with_name(artifact.path.name + ".partial")
    where = {
        "objects": root / "objects",
        "objects/.locks": root / "objects" / ".locks",
        "lock": root / "objects" / ".locks" / artifact.path.name,
        "partial": partial,
        "inside": partial / "notes",
        "final": artifact.path,
    }[place]
    files.remove(where)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(victim / "precious" if place == "lock" else victim)
    if place in ("partial", "inside", "final"):
        stage(Store(root), "harvest", {}, {}, Maker(), reporter=Listener())
    else:
        with pytest.raises(InputError, match="link") as caught:
            stage(Store(root), "harvest", {}, {}, Maker())
        assert caught.value.fix
    assert [path.name for path in victim.iterdir()] == ["precious"]
    assert (victim / "precious").read_text() == "precious"


def test_what_dead_processes_left_is_swept_and_what_can_be_resumed_stays(tmp_path):
    objects = tmp_path / "objects"
    stage(Store(tmp_path), "harvest", {}, {}, Maker())
    old = time.time() - 31 * 86_400
    for name, age in (("young", 0), ("old", old), ("held", old)):
        (objects / f"{name}-0000000000000000.partial").mkdir()
        (objects / f"{name}-0000000000000000.partial" / "a").write_text("")
        (objects / ".locks" / f"{name}-0000000000000000").write_text("999999999 somewhere")
        for path in (objects / f"{name}-0000000000000000.partial").rglob("*"):
            os.utime(path, (age or time.time(),) * 2)
        os.utime(objects / f"{name}-0000000000000000.partial", (age or time.time(),) * 2)
    (objects / ".locks" / "done-0000000000000000").write_text("999999999 somewhere")
    (objects / ".harvest-0000000000000000.12-ab.tmp").mkdir()
    (tmp_path / "demo-00000000").mkdir()
    for name, age in ((".run.json.1-ab.tmp", old), (".run.json.2-ab.tmp", time.time()), (".mine.tmp", old)):
        (tmp_path / "demo-00000000" / name).write_text("")
        os.utime(tmp_path / "demo-00000000" / name, (age, age))
    listener = Listener()
    with lock(objects / ".locks" / "held-0000000000000000", on_wait=print):
        stage(Store(tmp_path), "other", {}, {}, Maker(), reporter=listener)
    left = sorted(path.name for path in objects.iterdir() if not path.name.startswith(("harvest", "other")))
    assert left == [".locks", "held-0000000000000000.partial", "young-0000000000000000.partial"]
    assert [path.name for path in (objects / ".locks").iterdir()] == ["young-0000000000000000"]
    assert sorted(p.name for p in (tmp_path / "demo-00000000").iterdir()) == [".mine.tmp", ".run.json.2-ab.tmp"]
    assert len(listener.messages) == 1
    assert "31 days" in listener.messages[0]


def test_one_made_afresh_beside_one_that_is_read_disturbs_neither(tmp_path):
    """`--no-resume` in one process, the same artifact in the hands of another."""
    reader = Store(tmp_path)

    def load(artifact):
        return artifact.array("a.npy")

    def making(value):
        return lambda folder: save_array(folder / "a.npy", np.full(100_000, value))

    first = reader.stage("harvest", {}, {}, making(1), load)[1]
    listener, second = Listener(), []
    inside = threading.Event()

    def slow(folder):
        inside.set()
        time.sleep(0.5)
        making(2)(folder)

    other = threading.Thread(
        target=lambda: second.append(Store(tmp_path).stage("harvest", {}, {}, slow, load, fresh=True)[1])
    )
    other.start()
    assert inside.wait(20)
    third = reader.stage("harvest", {}, {}, making(3), load, reporter=listener)[1]
    other.join()
    assert (first == 1).all()
    assert (second[0] == 2).all()
    assert (third == 2).all()
    assert "waiting" in listener.messages[0]
