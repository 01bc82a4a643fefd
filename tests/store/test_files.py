import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.records import MetricRecord
from polyseme.store import (
    append_line,
    atomic_file,
    files,
    load_array,
    load_json,
    load_lines,
    load_tensors,
    load_tensors_metadata,
    save_array,
    save_json,
    save_lines,
    save_tensors,
)

WRITES = {
    "json": lambda path: save_json(path, {"a": list(range(1000))}),
    "lines": lambda path: save_lines(path, [{"a": 1}] * 1000),
    "array": lambda path: save_array(path, np.arange(100_000)),
    "tensors": lambda path: save_tensors(path, {"w": torch.zeros(100_000)}),
}


def refuse(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("kind", ["json", "lines", "array"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kind, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(InputError, match=r"disk is full.*free \d+ MB"):
        WRITES[kind](path)
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_a_file_size_limit_of_the_system_is_told_as_a_full_disk(tmp_path):
    """A real refusal by the kernel, in a process of its own: RLIMIT_FSIZE gives EFBIG."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from polyseme.core.errors import InputError; from tests.store.test_files import WRITES\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
        "for kind, write in WRITES.items():\n"
        "    try: write(Path(sys.argv[1]) / kind)\n"
        "    except InputError as error: print(kind, 'MB' in str(error))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.split("\n")[:-1] == [f"{kind} True" for kind in WRITES]
    assert list(tmp_path.iterdir()) == []


def test_the_space_is_checked_before_writing_and_the_fix_names_what_is_missing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="free 8 MB"):  # 8,000,128 bytes + header wanted, 1 MB free
        save_array(tmp_path / "a.npy", np.zeros(1_000_000))
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_block_leaves_nothing(tmp_path):
    def write():
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_short_writes_of_the_system_are_completed(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    save_array(tmp_path / "a.npy", np.arange(100))
    np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), np.arange(100))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(st.sampled_from(["<f4", "<f8", "<i4", "u1", "?"]), array_shapes(min_dims=0, max_dims=3, max_side=4)))
def test_arrays_come_back_bit_for_bit(tmp_path, array):
    save_array(tmp_path / "a.npy", array)
    back = load_array(tmp_path / "a.npy")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_transposed_and_empty_arrays_come_back(tmp_path):
    for array in (np.arange(6).reshape(2, 3).T, np.zeros((0, 3)), np.arange(10)[::2]):
        save_array(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), array)


def test_objects_are_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        save_array(tmp_path / "a.npy", np.array([{}], dtype=object))
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DamagedArtifact):
        load_array(tmp_path / "evil.npy")
    np.savez(tmp_path / "archive.npz", a=np.zeros(1))
    with pytest.raises(DamagedArtifact, match="npz"):
        load_array(tmp_path / "archive.npz")


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_files_cut_short_are_damaged(tmp_path, keep):
    save_array(tmp_path / "a.npy", np.arange(100.0))
    save_tensors(tmp_path / "t.safetensors", {"w": torch.arange(100.0)})
    for name, load in (("a.npy", load_array), ("t.safetensors", load_tensors)):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DamagedArtifact):
            load(path)


def test_tensors_come_back_and_shared_storage_is_written_twice(tmp_path):
    w = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "w": w,
        "tied": w,
        "column": w.T,
        "row": w[1],
        "count": torch.tensor(2**60),
        "dead": torch.tensor([True]),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {"kind": "test"})
    back = load_tensors(tmp_path / "t.safetensors")
    assert back.keys() == tensors.keys()
    for name in tensors:
        assert back[name].dtype == tensors[name].dtype
        assert torch.equal(back[name], tensors[name])
    assert load_tensors_metadata(tmp_path / "t.safetensors") == {"kind": "test"}


def test_nan_is_null_and_configs_and_arrays_are_dumped(tmp_path):
    record = MetricRecord(name="fvu", value=math.nan, n=3)
    save_json(
        tmp_path / "a.json", {"x": [math.nan, math.inf, 0.1], "record": record, "a": np.float32(2), "p": tmp_path}
    )
    back = load_json(tmp_path / "a.json")
    assert back["x"] == [None, None, 0.1]
    assert back["a"] == 2.0
    assert back["p"] == str(tmp_path)
    assert math.isnan(MetricRecord.model_validate(back["record"]).value)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_exactly(tmp_path, value):
    save_json(tmp_path / "a.json", value)
    assert load_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[" * 65 + "]" * 65,
        '{"a":' * 100 + "1" + "}" * 100,
        "NaN",
        "1" * 5000,
        "{",
        "",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
    ids=["unclosed", "deep list", "deep dict", "NaN", "huge integer", "half", "empty", "garbage"],
)
def test_hostile_json_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedArtifact, match=r"a\.json"):
        load_json(path)


def test_json_at_the_depth_limit_is_read(tmp_path):
    (tmp_path / "a.json").write_text("[" * 64 + "]" * 64)
    load_json(tmp_path / "a.json")


def test_json_over_the_size_limit_is_refused_without_reading_it_all(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    (tmp_path / "a.json").write_text("[1,2,3,4,5,6,7]")
    with pytest.raises(DamagedArtifact, match="larger"):
        load_json(tmp_path / "a.json")


def test_lines_survive_a_half_written_last_line(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, json.dumps({"a": 1}))
    path.write_bytes(path.read_bytes() + b'{"a": 2, "b')
    append_line(path, json.dumps({"a": 3}))
    assert load_lines(path) == [{"a": 1}, {"a": 3}]
    assert load_lines(tmp_path / "missing") == []


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    append_line(path, "1")
    write, calls = os.write, []

    def half(descriptor, data):
        calls.append(1)
        return write(descriptor, data[:2]) if len(calls) == 1 else refuse()

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(InputError, match="disk is full"):
        append_line(path, "22222")
    assert path.read_text() == "1\n"
