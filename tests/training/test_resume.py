"""Killed, interrupted, full: a training that is resumed ends in the same bits as one that was left alone."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from polyseme.activations import HarvestConfig, LiveSource
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.dictionaries import ARCHITECTURES
from polyseme.store import latest_checkpoint, load_json, load_tensors, save_json, save_tensors, to_json
from polyseme.training import Job, TrainingConfig, fit
from tests.activations.fakes import NAMES, FakeNetwork, make_windows
from tests.store.listener import Listener
from tests.training.planted import Planted, same_weights

N_STEPS = 30
CONFIG = TrainingConfig(n_tokens=64 * N_STEPS, batch_size=64, dead_after=500, checkpoint_seconds=0.0)


def build_jobs():
    names = [name for name in ("topk", "batch_topk", "jumprelu", "gated") if name in ARCHITECTURES]
    return [
        Job(name, ARCHITECTURES[name](n_latents=32).build(16, seed=seed), Binding.at("a"), seed, target_l0=target)
        for seed, name in enumerate(names)
        for target in [6.0 if name in ("jumprelu", "gated") else None]
    ]


class Slow(Planted):
    def batch(self, batch_size, index):
        time.sleep(0.005)
        return super().batch(batch_size, index)


def main(folder: Path):
    """What the killed process runs."""
    trained = fit(build_jobs(), Slow(), CONFIG, checkpoints=folder / "checkpoints")
    for one in trained:
        save_tensors(folder / f"{one.name}.safetensors", one.dictionary.tensors())
    save_json(folder / "history.json", [one.history for one in trained])


def serve(folder: Path):
    """Import once; then, for every line read, fork a process that trains, tell its id, and how it ended."""
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            main(folder)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


def test_kill_9_at_any_moment_then_resume_gives_the_same_bits(tmp_path):
    clean = fit(build_jobs(), Planted(), CONFIG)
    code = (
        "import sys; from pathlib import Path; from tests.training.test_resume import serve; serve(Path(sys.argv[1]))"
    )
    checkpoints, rng, seen = tmp_path / "checkpoints", random.Random(0), set()

    def latest():
        names = [path.name for path in checkpoints.iterdir()] if checkpoints.exists() else []
        return max((name for name in names if name.isdigit()), default="")

    command, root = [sys.executable, "-c", code, str(tmp_path)], Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def ask(line):
            print(line, file=server.stdin, flush=True)
            return int(server.stdout.readline())

        for _ in range(8):
            before, child, deadline = latest(), ask("train"), time.monotonic() + 60
            # Killed a moment after its first new checkpoint: in a step, or while writing the next.
            while latest() == before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert int(server.stdout.readline()) == signal.SIGKILL
            seen.add(latest())
        assert len(seen) > 4
        assert not (tmp_path / "history.json").exists()
        ask("train to the end")
        assert int(server.stdout.readline()) == 0
        server.stdin.close()
    for one in clean:
        saved = load_tensors(tmp_path / f"{one.name}.safetensors")
        for name, tensor in one.dictionary.tensors().items():
            assert saved[name].numpy().tobytes() == tensor.numpy().tobytes(), (one.name, name)
    assert load_json(tmp_path / "history.json") == to_json([one.history for one in clean])


class Interrupting(Planted):
    at = 7

    def batch(self, batch_size, index):
        if index == self.at:
            raise KeyboardInterrupt
        return super().batch(batch_size, index)


def test_ctrl_c_writes_a_checkpoint_and_goes_up(tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_seconds": 1e9})
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        fit(build_jobs(), Interrupting(), config, spreads={}, checkpoints=tmp_path, reporter=listener)
    assert latest_checkpoint(tmp_path).step == 7
    assert "stopped after step 7" in listener.messages[0]
    resumed = fit(build_jobs(), Planted(), config, checkpoints=tmp_path, reporter=listener)
    assert "resumes from step 7 of 30" in listener.messages[1]
    for one, clean in zip(resumed, fit(build_jobs(), Planted(), config), strict=True):
        assert same_weights(one.dictionary, clean.dictionary)
        assert one.history == clean.history


def test_a_live_network_is_trained_on_and_resumed(tmp_path):
    """The real source: two sites of one forward pass, several epochs, stopped inside the network."""

    class Stopping(FakeNetwork):
        stop_at = 10**9

        def read(self, inputs, sites):
            if self.passes == self.stop_at:
                raise KeyboardInterrupt
            return super().read(inputs, sites)

    def train(network, folder=None):
        source = LiveSource(network, make_windows(40), NAMES, HarvestConfig(block_tokens=64, batch_windows=4))
        topk = ARCHITECTURES["topk"](n_latents=16, k=2)
        jobs = [
            Job("shallow", topk.build(4, seed=0), Binding.at("shallow"), 0),
            Job("deep", topk.build(6, seed=1), Binding.at("deep"), 1),
            Job("transcoder", topk.build(4, 6, seed=0), Binding(("shallow",), ("deep",)), 0),
        ]
        config = TrainingConfig(n_tokens=2 * source.n_tokens, batch_size=16, dead_after=100)
        return fit(jobs, source, config, checkpoints=folder)

    network = Stopping()
    clean = train(network)
    stopping = Stopping()
    stopping.stop_at = network.passes * 2 // 3
    with pytest.raises(KeyboardInterrupt):
        train(stopping, tmp_path)
    assert latest_checkpoint(tmp_path).step > 0
    for one, resumed in zip(clean, train(Stopping(), tmp_path), strict=True):
        assert same_weights(one.dictionary, resumed.dictionary)
        assert one.history == resumed.history
        assert one.final.fvu < one.history[0].fvu


def test_a_signal_inside_a_step_waits_for_its_end(tmp_path):
    """The first job's dictionary raises SIGINT while it makes its gradient; the second job must still step."""
    jobs = [*build_jobs()[:1], Job("second", ARCHITECTURES["topk"](n_latents=32).build(16, seed=9), Binding.at("a"), 9)]
    accumulate, steps = jobs[0].dictionary.accumulate, []

    def signalling(*args, **kwargs):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        return accumulate(*args, **kwargs)

    jobs[0].dictionary.accumulate = signalling
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(jobs, Planted(), CONFIG.model_copy(update={"checkpoint_seconds": 1e9}), checkpoints=tmp_path)
    assert latest_checkpoint(tmp_path).step == 5
    assert signal.getsignal(signal.SIGINT) is handler


def test_checkpoints_change_nothing(tmp_path):
    saved = fit(build_jobs(), Planted(), CONFIG, checkpoints=tmp_path)
    for one, plain in zip(saved, fit(build_jobs(), Planted(), CONFIG), strict=True):
        assert same_weights(one.dictionary, plain.dictionary)
    assert len(list(tmp_path.iterdir())) == 2
    again = fit(build_jobs(), Planted(), CONFIG, checkpoints=tmp_path)
    for one, plain in zip(again, saved, strict=True):
        assert same_weights(one.dictionary, plain.dictionary)
        assert one.history == plain.history


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(KeyboardInterrupt):
        fit(build_jobs(), Interrupting(), config, spreads={}, checkpoints=tmp_path)
    path = latest_checkpoint(tmp_path).path / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    listener = Listener()
    resumed = fit(build_jobs(), Planted(), config, checkpoints=tmp_path, reporter=listener)
    assert "0000000007 is damaged" in listener.messages[0]
    assert "step 6" in listener.messages[1]
    for one, clean in zip(resumed, fit(build_jobs(), Planted(), config), strict=True):
        assert same_weights(one.dictionary, clean.dictionary)


@pytest.mark.parametrize("change", ["config", "source", "seed"])
def test_checkpoints_of_another_training_are_refused(tmp_path, change):
    fit(build_jobs()[:1], Planted(), CONFIG, checkpoints=tmp_path)
    jobs, source, config = build_jobs()[:1], Planted(), CONFIG
    if change == "config":
        config = CONFIG.model_copy(update={"lr": 0.1})
    elif change == "source":
        source = Planted(seed=1)
    else:
        jobs[0].seed = 5
    with pytest.raises(InputError, match=r"another training.*delete"):
        fit(jobs, source, config, checkpoints=tmp_path)
    fit(build_jobs()[:1], Planted(), CONFIG.model_copy(update={"checkpoint_seconds": 3.0}), checkpoints=tmp_path)


def test_a_full_disk_while_checkpointing_is_told_and_loses_nothing(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(build_jobs()[:1], Interrupting(), CONFIG, spreads={}, checkpoints=tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"disk is full.*MB"):
            fit(build_jobs()[:1], Planted(), CONFIG, checkpoints=tmp_path)
    assert latest_checkpoint(tmp_path).step == 7
