"""Locks: one holder at a time, who it is, and what a kill leaves."""

import errno
import os
import subprocess
import sys
import threading
import time
from itertools import product

import pytest
from filelock import FileLock

from polyseme.core.errors import InputError
from polyseme.store.locks import GUARD, Held, is_locked, lock, try_lock

HOLDER = (
    "import sys, time; from pathlib import Path; from polyseme.store.locks import lock\n"
    "with lock(Path(sys.argv[1]), on_wait=print): print('ready', flush=True); time.sleep(60)\n"
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_is_held_once_and_leaves_nothing(tmp_path):
    path = tmp_path / "locks" / "a"
    assert not is_locked(path)
    with try_lock(path) as held:
        assert held == Held(None)
        assert is_locked(path)
        with try_lock(path) as second:
            assert second == str(os.getpid())
        assert is_locked(path)
        assert names(path.parent) == ["a", f"a{GUARD}"]
    assert not is_locked(path)
    assert names(path.parent) == []


def test_a_lock_let_go_is_gone_and_a_waiter_gets_a_new_one(tmp_path):
    path, order = tmp_path / "locks" / "a", []

    def work(name):
        for _ in range(20):
            with lock(path, on_wait=lambda _: None):
                order.append(name)
                assert path.exists()
                order.append(name)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == 120
    assert order[::2] == order[1::2]  # never two inside at once
    assert names(path.parent) == []


def test_an_error_inside_releases_the_lock_and_is_the_one_that_is_seen(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(OSError, match="mine"), lock(path, on_wait=print):
        raise OSError("mine")
    assert names(tmp_path) == []


def test_a_kill_releases_the_lock_and_leaves_the_last_sign_of_life(tmp_path):
    path, waited = tmp_path / "a", []
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    assert is_locked(path)
    with try_lock(path) as held:
        assert held == str(process.pid)
    timer = threading.Timer(0.5, process.kill)
    timer.start()
    with lock(path, on_wait=waited.append) as held:
        assert waited == [str(process.pid)]
        assert held.last_sign == pytest.approx(time.time(), abs=60)
    process.wait()
    process.stdout.close()
    assert names(tmp_path) == []


def test_a_lock_in_a_folder_that_may_only_be_read_is_held_while_its_holder_gives_signs_of_life(tmp_path, monkeypatch):
    path = tmp_path / "a"

    def refused(self, *args, **options):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    path.write_text("999999999 somewhere")
    (tmp_path / f"a{GUARD}").write_text("")
    assert not is_locked(path)
    monkeypatch.setattr(FileLock, "acquire", refused)
    assert is_locked(path)
    os.utime(path, (time.time() - 300,) * 2)
    assert not is_locked(path)
    with pytest.raises(InputError, match="read-only"), try_lock(path):
        pass


def test_a_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch):
    def refused(self, *args, **options):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refused)
    with pytest.raises(InputError, match="no file locks") as caught, try_lock(tmp_path / "a"):
        pass
    assert "local disk" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a", "notes"), *product(["a", f"a{GUARD}"], ["link", "hard link", "folder", "pipe"])],
)
def test_what_is_no_lock_file_is_left_alone(tmp_path, name, kind):
    (tmp_path / "victim").write_text("my notes")
    folder = tmp_path / "locks"
    folder.mkdir()
    place = folder / name
    if kind == "notes":
        place.write_text("my notes")
    elif kind == "link":
        place.symlink_to(tmp_path / "victim")
    elif kind == "hard link":
        place.hardlink_to(tmp_path / "victim")
    elif kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    with pytest.raises(InputError) as caught, lock(folder / "a", on_wait=print):
        pass
    assert caught.value.fix
    assert name in caught.value.where
    assert (tmp_path / "victim").read_text() == "my notes"
    assert names(folder) == [name]
    assert kind != "notes" or place.read_text() == "my notes"
