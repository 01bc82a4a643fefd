"""Shards: whole or made again, never trusted; and a harvest that can be killed at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from polyseme.activations.config import HarvestConfig
from polyseme.activations.disk import DiskSource, harvest_to_disk
from polyseme.activations.live import LiveSource
from polyseme.core.errors import DamagedArtifact, InputError
from tests.activations.fakes import NAMES, SITES, FakeNetwork, make_windows, same

CONFIG = HarvestConfig(block_tokens=48, batch_windows=2, prefetch=False, cache="disk")
WINDOWS = make_windows(n_documents=16)


def harvest(folder: Path, network: FakeNetwork | None = None, **change) -> DiskSource:
    config = CONFIG.model_copy(update=change)
    return harvest_to_disk(network or FakeNetwork(), WINDOWS, NAMES, config, folder)


def live() -> LiveSource:
    return LiveSource(FakeNetwork(), WINDOWS, NAMES, CONFIG)


def assert_good(source: DiskSource) -> None:
    n = 5 * WINDOWS.n_tokens // 4 // 10
    assert all(same(a, b) for a, b in zip(source.batches(10, stop=n), live().batches(10, stop=n), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_alone_is_a_source(tmp_path):
    harvest(tmp_path)
    source = DiskSource(tmp_path)
    assert_good(source)
    assert source.fingerprint == live().fingerprint
    assert source.sites == live().sites


def test_shards_are_plain_arrays_of_the_counted_tokens(tmp_path):
    harvest(tmp_path)
    ids = np.concatenate([np.load(p, allow_pickle=False) for p in sorted(tmp_path.glob("*.ids.npy"))], axis=1)
    assert ids.dtype == np.int32
    assert sorted(ids[0]) == sorted(WINDOWS.tokens[~WINDOWS.special])
    assert all(len(np.load(p)) <= 48 for p in tmp_path.glob("*.site0.npy"))


def test_what_is_whole_is_kept(tmp_path):
    harvest(tmp_path)
    before = contents(tmp_path)
    network = FakeNetwork()
    harvest(tmp_path, network)
    assert network.passes == 0
    assert contents(tmp_path) == before


DAMAGE = {
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-5]),
    "missing": lambda p: p.unlink(),
    "one bit": lambda p: p.write_bytes(p.read_bytes()[:-5] + bytes([p.read_bytes()[-5] ^ 4]) + p.read_bytes()[-4:]),
}


def _full_folder(path):
    path.unlink()
    path.mkdir()
    (path / "x").write_text("x")


DAMAGE["a folder with a file"] = _full_folder
FILES = ("shard-00001.site0.npy", "shard-00001.site1.npy", "shard-00001.ids.npy", "shard-00001.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_made_again_from_the_network(tmp_path, name, damage):
    harvest(tmp_path)
    before = contents(tmp_path)
    DAMAGE[damage](tmp_path / name)
    if (tmp_path / name).is_file() and name.endswith(".json"):
        (tmp_path / name).write_text('{"harvest": 1')
    said: list[str] = []

    class Listener:
        def task(self, name, total, unit=""):
            return self

        def update(self, done, total=None, note=""):
            return None

        def message(self, text):
            said.append(text)

    source = DiskSource(tmp_path, live=live(), reporter=Listener())
    assert_good(source)
    assert contents(tmp_path) == before
    assert len(said) == 1
    assert "shard-00001" in said[0]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_without_a_network_is_never_read(tmp_path, damage):
    harvest(tmp_path)
    DAMAGE[damage](tmp_path / "shard-00001.site1.npy")
    with pytest.raises(DamagedArtifact, match=r"shard-00001.*Fix: harvest again"):
        list(DiskSource(tmp_path).batches(10, stop=40))


def test_a_shard_of_another_harvest_is_made_again(tmp_path):
    harvest(tmp_path / "a")
    harvest(tmp_path / "b", seed=1)
    for name in ("shard-00001.site0.npy", "shard-00001.site1.npy", "shard-00001.ids.npy", "shard-00001.json"):
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(DamagedArtifact, match="of another harvest"):
        DiskSource(tmp_path / "a")
    assert_good(harvest(tmp_path / "a"))


def test_harvesting_again_mends_what_is_missing_and_only_that(tmp_path):
    harvest(tmp_path)
    (tmp_path / "shard-00002.ids.npy").unlink()
    (tmp_path / ".shard-00002.ids.npy.1-1.tmp").write_bytes(b"half")
    (tmp_path / "harvest.json").write_text("{")
    network = FakeNetwork()
    assert_good(harvest(tmp_path, network))
    assert network.windows_read <= 6  # one block
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["harvest.json", *FILES])
def test_a_folder_where_a_file_of_the_harvest_should_be_gives_way(tmp_path, name):
    harvest(tmp_path)
    before = contents(tmp_path)
    _full_folder(tmp_path / name)
    assert_good(harvest(tmp_path))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [None, "{", "{}", '{"version": 1, "extra": 2}'])
def test_a_damaged_record_is_not_guessed_at(tmp_path, content):
    harvest(tmp_path)
    if content is None:
        (tmp_path / "harvest.json").unlink()
    else:
        (tmp_path / "harvest.json").write_text(content)
    with pytest.raises(DamagedArtifact, match="record of the harvest"):
        DiskSource(tmp_path)


def test_a_folder_of_another_harvest_is_refused_untouched(tmp_path):
    harvest(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="another harvest"):
        harvest(tmp_path, seed=1)
    with pytest.raises(InputError, match="another harvest"):
        DiskSource(tmp_path, live=LiveSource(FakeNetwork(), make_windows(n_documents=3), NAMES, CONFIG))
    assert contents(tmp_path) == before


def test_the_order_of_sites_is_part_of_a_harvest(tmp_path):
    harvest(tmp_path)
    swapped = {"deep": SITES[1], "shallow": SITES[0]}
    with pytest.raises(InputError, match="another harvest"):
        harvest_to_disk(FakeNetwork(), WINDOWS, swapped, CONFIG, tmp_path)


def test_float16_shards_are_rounded_and_half_the_size(tmp_path):
    half = harvest(tmp_path / "half", shard_dtype="float16")
    whole = harvest(tmp_path / "whole")
    assert half.fingerprint != whole.fingerprint
    for a, b in zip(half.batches(10, stop=30), whole.batches(10, stop=30), strict=True):
        assert torch.equal(a.token, b.token)
        assert all(torch.equal(a.acts[s], b.acts[s].half().float()) for s in NAMES)
    sizes = [(tmp_path / d / "shard-00000.site1.npy").stat().st_size - 128 for d in ("half", "whole")]
    assert 2 * sizes[0] == sizes[1]


def test_a_vector_that_does_not_fit_float16_is_refused(tmp_path):
    network = FakeNetwork()
    network.tables[SITES[1]][WINDOWS.tokens[0, 1], 0] = 1e6
    with pytest.raises(InputError, match=r"'deep' does not fit float16.*1e\+06.*float32"):
        harvest(tmp_path, network, shard_dtype="float16")


def test_too_little_room_is_said_before_the_network_runs(tmp_path, monkeypatch):
    network = FakeNetwork()
    total = WINDOWS.n_tokens * (10 * 4 + 12)
    usage = type("Usage", (), {"free": total - 1})
    monkeypatch.setattr("polyseme.store.failures.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="the disk is full") as caught:
        harvest(tmp_path, network)
    assert "`shard_dtype` to float16" in caught.value.fix
    assert "free 1 MB there" in caught.value.fix
    assert network.passes == 0


KILLED = """
import sys, time
from pathlib import Path
from polyseme.activations.config import HarvestConfig
from polyseme.activations.disk import harvest_to_disk
from tests.activations.fakes import NAMES, FakeNetwork, make_windows

class Slow(FakeNetwork):
    def read(self, inputs, sites):
        time.sleep(0.02)
        return super().read(inputs, sites)

config = HarvestConfig.model_validate_json(sys.argv[2])
harvest_to_disk(Slow(), make_windows(n_documents=16), NAMES, config, Path(sys.argv[1]))
"""


def test_a_harvest_killed_at_any_moment_goes_on(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    harvest(whole)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(folder), CONFIG.model_dump_json()],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob("shard-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p.name: json.loads(p.read_text()) for p in folder.glob("shard-*.json")}
    assert 2 <= len(kept) < len(list(whole.glob("shard-*.json")))
    network = FakeNetwork()
    assert_good(harvest(folder, network))
    assert network.windows_read == len(WINDOWS) - sum(
        len(block.groups) * 2 for block in live().schedule.blocks(0) if f"shard-{block.index:05d}.json" in kept
    )
    assert contents(folder) == contents(whole)
