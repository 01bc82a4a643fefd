"""Whatever ends a training, and wherever: what is saved is the state of a whole number of steps."""

import contextlib
import ctypes
import errno
import signal
import sys
import threading
import time

import pytest
import torch

from polyseme.core.binding import Binding
from polyseme.core.errors import DamagedArtifact, Diverged, InputError
from polyseme.dictionaries import ARCHITECTURES
from polyseme.store import latest_checkpoint, load_json, load_tensors, save_json, save_tensors
from polyseme.store.checkpoints import save_checkpoint
from polyseme.training import Job, TrainingConfig, fit, jobs
from polyseme.training.controller import L0Controller
from polyseme.training.interrupts import Signals
from polyseme.training.jobs import NotFinite, Trainee
from tests.dictionaries.reference import SMALL
from tests.store.listener import Listener
from tests.training.planted import Planted, same_weights

CONFIG = TrainingConfig(n_tokens=64 * 12, batch_size=64, dead_after=200, checkpoint_seconds=1e9)
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "SIGXCPU", "SIGRTMIN")
    if hasattr(signal, name)
]


class Preempted(Exception):  # noqa: N818
    """What a scheduler's wrapper may raise: no KeyboardInterrupt."""


def two_jobs():
    names = ("batch_topk", "jumprelu")
    return [
        Job(name, ARCHITECTURES[name](n_latents=32).build(16, seed=i), Binding.at("a"), i)
        for i, name in enumerate(names)
    ]


def within_step(own: list[Job], at: int, act):
    """Call `act` between the two jobs' updates of step `at`: the first has moved its weights, the second has not."""
    accumulate, calls = own[1].dictionary.accumulate, []

    def acting(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            act()
        return accumulate(*args, **kwargs)

    own[1].dictionary.accumulate = acting
    return own


def assert_goes_on_as_if_never_stopped(folder):
    for one, clean in zip(
        fit(two_jobs(), Planted(), CONFIG, checkpoints=folder), fit(two_jobs(), Planted(), CONFIG), strict=True
    ):
        assert same_weights(one.dictionary, clean.dictionary)
        assert one.history == clean.history


@contextlib.contextmanager
def handled(number, error):
    def handler(*_):
        raise error

    before = signal.signal(number, handler)
    try:
        yield handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Preempted, SystemExit])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_whose_handler_raises_waits_for_the_end_of_the_step(tmp_path, number, error):
    own = within_step(two_jobs(), 5, lambda: signal.raise_signal(number))
    with handled(number, error) as handler:
        with pytest.raises(error):
            fit(own, Planted(), CONFIG, checkpoints=tmp_path)
        assert signal.getsignal(number) is handler
    assert latest_checkpoint(tmp_path).step == 5
    assert_goes_on_as_if_never_stopped(tmp_path)


def test_a_signal_whose_handler_returns_changes_nothing(tmp_path):
    seen = []
    own = within_step(two_jobs(), 5, lambda: signal.raise_signal(signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        fit(own, Planted(), CONFIG, checkpoints=tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert latest_checkpoint(tmp_path).step == 12


def test_a_step_that_never_ends_is_left_by_a_second_signal_and_never_saved(tmp_path):
    reached = []

    def stuck():
        signal.raise_signal(signal.SIGINT)  # held
        reached.append("after the first")
        time.sleep(0.25)
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        fit(within_step(two_jobs(), 5, stuck), Planted(), CONFIG, checkpoints=tmp_path)
    assert reached == ["after the first"]
    assert latest_checkpoint(tmp_path) is None
    assert_goes_on_as_if_never_stopped(tmp_path)


def test_the_echo_of_a_signal_neither_breaks_the_step_nor_the_saving_of_it(tmp_path, monkeypatch):
    """`timeout` signals its child and then the child's whole group."""

    def twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    def saving(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return save_checkpoint(*args, **kwargs)

    monkeypatch.setattr(sys.modules["polyseme.training.fit"], "save_checkpoint", saving)
    with handled(signal.SIGTERM, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        fit(within_step(two_jobs(), 5, twice), Planted(), CONFIG, checkpoints=tmp_path)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path).step == 5
    assert_goes_on_as_if_never_stopped(tmp_path)


def raise_in_this_thread():
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(threading.get_ident()), ctypes.py_object(KeyboardInterrupt)
    )
    for _ in range(1000):
        time.sleep(0.001)


@pytest.mark.parametrize("in_main", [True, False], ids=["main thread", "another thread"])
@pytest.mark.parametrize("how", ["MemoryError", "KeyboardInterrupt", "user's code", "asynchronous"])
def test_an_exception_inside_a_step_never_leaves_a_checkpoint_of_half_of_it(tmp_path, how, in_main):
    errors = {"MemoryError": MemoryError, "KeyboardInterrupt": KeyboardInterrupt, "user's code": ZeroDivisionError}

    def act():
        if how == "asynchronous":
            raise_in_this_thread()
        raise errors[how]

    caught = []

    def attempt(at, config):
        try:
            fit(within_step(two_jobs(), at, act), Planted(), config, checkpoints=tmp_path)
        except BaseException as error:  # noqa: BLE001
            caught.append(type(error))

    def run(at, config):
        thread = threading.Thread(target=attempt, args=(at, config))
        if in_main:
            attempt(at, config)
        else:
            thread.start()
            thread.join()

    run(5, CONFIG)
    assert latest_checkpoint(tmp_path) is None
    run(5, CONFIG.model_copy(update={"checkpoint_seconds": 0.0}))
    assert latest_checkpoint(tmp_path).step == 4
    assert caught == [errors.get(how, KeyboardInterrupt)] * 2
    assert_goes_on_as_if_never_stopped(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "gone"), InputError("no"), SystemExit(1)])
def test_an_exception_between_steps_keeps_the_steps_that_were_taken(tmp_path, error):
    class Failing(Planted):
        def batch(self, batch_size, index):
            if index == 7:
                raise error
            return super().batch(batch_size, index)

    with pytest.raises(type(error) if isinstance(error, BaseException) else error):
        fit(two_jobs(), Failing(), CONFIG, spreads={}, checkpoints=tmp_path)
    assert latest_checkpoint(tmp_path).step == 7
    assert_goes_on_as_if_never_stopped(tmp_path)


def test_an_interrupt_while_saving_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) in (3, 4):  # while saving, and again on the way out
            raise KeyboardInterrupt
        return save_tensors(*args, **kwargs)

    monkeypatch.setattr("polyseme.store.checkpoints.save_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(two_jobs(), Planted(), CONFIG.model_copy(update={"checkpoint_seconds": 0.0}), checkpoints=tmp_path)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path).step == 2
    assert_goes_on_as_if_never_stopped(tmp_path)


def test_what_failed_is_told_also_where_saving_fails_on_the_way_out(tmp_path, monkeypatch):
    def full(*_, **__):
        raise InputError("the disk is full")

    class Failing(Planted):
        def batch(self, batch_size, index):
            if index == 7:
                raise ZeroDivisionError("the user's own")
            return super().batch(batch_size, index)

    monkeypatch.setattr(sys.modules["polyseme.training.fit"], "save_checkpoint", full)
    with pytest.raises(ZeroDivisionError, match="the user's own") as caught:
        fit(two_jobs(), Failing(), CONFIG, spreads={}, checkpoints=tmp_path)
    assert "the disk is full" in caught.value.__notes__[0]


def test_a_dictionary_that_was_half_trained_is_not_trained_from_there(tmp_path):
    own = within_step(two_jobs(), 1, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(own, Planted(), CONFIG, checkpoints=tmp_path)
    with pytest.raises(InputError, match="trained before, and there is no checkpoint"):
        fit(own, Planted(), CONFIG, checkpoints=tmp_path)
    folded = [Job(job.name, job.dictionary.folded(), Binding.at("a"), 0) for job in own[:1]]
    fit(folded, Planted(), CONFIG)


def test_signals_are_left_as_they_were_whatever_happens():
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with pytest.raises(ZeroDivisionError), Signals() as signals, signals.held():
        raise ZeroDivisionError
    with Signals():
        signal.signal(signal.SIGUSR2, signal.default_int_handler)  # another's, installed meanwhile, stays
    assert signal.getsignal(signal.SIGUSR2) is signal.default_int_handler
    signal.signal(signal.SIGUSR2, before[signal.SIGUSR2])
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


# A step that is not taken moves nothing.


def snapshot(trainee: Trainee):
    return {name: tensor.clone() for name, tensor in trainee.tensors().items()}, trainee.state()


def trainee_of(name, steps=4):
    (trained,) = [Job(name, SMALL[name](32, 4).build(16, seed=0), Binding.at("a"), 0)]
    plan = jobs.Plan(20, 64, 1, 4, 2, 200, (0.9, 0.999), 1.0, revive=0.01, revived=(2, 18))
    trainee = Trainee(trained, plan, 1e-3, L0Controller(1.0, 4.0))
    for i, batch in enumerate(Planted().batches(64, stop=steps)):
        if i == 0:
            trained.dictionary.initialise(batch.at(Binding.at("a")))
        trainee.step(batch.at(Binding.at("a")), i)
    return trainee


def spoiled(how):
    batch = Planted().batch(64, 9).at(Binding.at("a"))
    x = batch.x.clone()
    if how == "hopeless":
        x = 1000 + 0.01 * x
    else:
        x[3, 5] = {"nan": float("nan"), "infinity": float("inf"), "overflow": 1e30}[how]
    return type(batch)(x, x, batch.token, batch.document, batch.position)


@pytest.mark.parametrize("how", ["nan", "infinity", "overflow", "hopeless"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_step_that_is_not_taken_leaves_everything_as_it_was(name, how):
    trainee = trainee_of(name)
    tensors, state = snapshot(trainee)
    with pytest.raises(NotFinite):
        trainee.step(spoiled(how), 4)
    after, state_after = snapshot(trainee)
    for key, tensor in tensors.items():
        assert torch.equal(after[key], tensor), key
    assert state_after == state
    # And what comes next is what would have come.
    trainee.step(Planted().batch(64, 4).at(Binding.at("a")), 4)
    other = trainee_of(name, 5)
    for key, tensor in snapshot(other)[0].items():
        assert torch.equal(trainee.tensors()[key], tensor), key
    assert trainee.state() == other.state()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_same_batch_twice_gives_the_same_gradients_and_moves_nothing(name):
    dictionary = trainee_of(name).job.dictionary
    before = {key: tensor.clone() for key, tensor in dictionary.tensors().items()}
    dead = torch.arange(32) % 3 == 0
    results = []
    for _ in range(3):
        stats = dictionary.accumulate(
            Planted().batch(64, 9).at(Binding.at("a")), progress=0.5, dead=dead, coefficient=0.3
        )
        gradients = {key: parameter.grad.clone() for key, parameter in dictionary.parameters().items()}
        results.append((stats, gradients))
    for stats, gradients in results[1:]:
        assert torch.equal(stats.loss, results[0][0].loss)
        assert torch.equal(stats.fired, results[0][0].fired)
        for key, gradient in gradients.items():
            assert torch.equal(gradient, results[0][1][key]), key
    for key, tensor in dictionary.tensors().items():
        assert torch.equal(tensor, before[key]), key


def test_initialising_is_all_or_nothing():
    dictionary = SMALL["topk"](32, 4).build(16, 16, seed=0)
    batch = Planted().batch(64, 0).at(Binding.at("a"))
    with pytest.raises(InputError, match="port out"):
        dictionary.initialise(type(batch)(batch.x, torch.ones(64, 16), batch.token, batch.document, batch.position))
    assert not dictionary.is_initialised


# What a checkpoint must hold.


def test_a_checkpoint_of_another_version_is_told_and_begun_again(tmp_path):
    fit(two_jobs(), Planted(), CONFIG, checkpoints=tmp_path)
    path = latest_checkpoint(tmp_path).path
    tensors, state = load_tensors(path / "tensors.safetensors"), load_json(path / "state.json")
    del state["version"]
    save_checkpoint(tmp_path, 12, tensors, state)
    listener = Listener()
    fit(two_jobs(), Planted(), CONFIG, checkpoints=tmp_path, reporter=listener)
    assert "another version" in listener.messages[0]
    assert_goes_on_as_if_never_stopped(tmp_path)


@pytest.mark.parametrize("change", ["missing", "shape", "dtype", "nan", "unknown", "state", "history", "fewer"])
def test_a_checkpoint_that_cannot_be_is_refused_before_anything_changes(tmp_path, change):
    fit(two_jobs(), Planted(), CONFIG, checkpoints=tmp_path)
    found = latest_checkpoint(tmp_path)
    tensors, state = dict(found.tensors), found.state
    name = "1.dictionary.W_dec"
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][:1]
    elif change == "dtype":
        tensors[name] = tensors[name].double()
    elif change == "nan":
        tensors[name][3, 3] = float("nan")
    elif change == "unknown":
        tensors["1.dictionary.more"] = torch.zeros(1)
    elif change == "state":
        del state["jobs"][1]["controller"]["coefficient"]
    elif change == "history":
        state["jobs"][1]["history"] = [{"step": "x"}]
    else:
        state["jobs"].pop()
    save_checkpoint(tmp_path, 12, tensors, state)
    own = two_jobs()
    before = [{key: tensor.clone() for key, tensor in job.dictionary.tensors().items()} for job in own]
    with pytest.raises(DamagedArtifact, match=r"does not hold the state.*0000000012"):
        fit(own, Planted(), CONFIG, checkpoints=tmp_path)
    for job, tensors in zip(own, before, strict=True):
        for key, tensor in job.dictionary.tensors().items():
            assert torch.equal(tensor, tensors[key]), key


def test_divergence_saves_nothing_of_its_step(tmp_path):
    class Exploding(Planted):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            if index == 6:
                batch.acts["a"][0, 0] = float("nan")
            return batch

    with pytest.raises(Diverged):
        fit(two_jobs(), Exploding(), CONFIG, checkpoints=tmp_path)
    assert latest_checkpoint(tmp_path) is None
    save_json(tmp_path / "unrelated.json", {})
    assert_goes_on_as_if_never_stopped(tmp_path)
