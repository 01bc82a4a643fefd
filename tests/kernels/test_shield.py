"""Nothing that is set outside for the process or the thread changes a number, a key, or reaches a pointer."""

import ast
import contextlib
import hashlib
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import polyseme
from polyseme.activations import TensorSource
from polyseme.core.binding import Binding
from polyseme.dictionaries import ARCHITECTURES, load_dictionary, save_dictionary
from polyseme.kernels.shield import shield, shielded
from polyseme.networks import load_network
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo import TOYS
from tests.store.listener import Listener
from tests.tiny import tiny_bert, tiny_gpt2

backends = torch.backends


@contextmanager
def setting(put: Callable, value, back):
    put(value)
    try:
        yield
    finally:
        put(back)


def attribute(owner, name, value):
    return setting(lambda new: setattr(owner, name, new), value, getattr(owner, name))


def precision(backend, of, value):
    write = torch._C._set_fp32_precision_setter
    return setting(lambda new: write(backend, of, new), value, "none")


@contextmanager
def seeded(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


STATES: dict[str, Callable] = {
    "default dtype float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default dtype float16": lambda: setting(torch.set_default_dtype, torch.float16, torch.float32),
    "default device": lambda: setting(torch.set_default_device, "meta", None),
    "default device, as a context": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "matmul precision high": lambda: setting(torch.set_float32_matmul_precision, "high", "highest"),
    "matmul precision medium": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "cuda tf32": lambda: attribute(backends.cuda.matmul, "allow_tf32", True),
    "mkldnn bf16": lambda: precision("mkldnn", "matmul", "bf16"),
    "mkldnn all bf16": lambda: precision("mkldnn", "all", "bf16"),
    "every backend bf16": lambda: precision("generic", "all", "bf16"),
    "no mkldnn": lambda: attribute(backends.mkldnn, "enabled", False),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "warns of what is not deterministic": lambda: setting(torch.set_deterministic_debug_mode, 1, 0),
    "denormals are 0": lambda: setting(torch.set_flush_denormal, True, False),
    "anomalies are looked for": lambda: setting(torch.set_anomaly_enabled, True, False),
    "attention by its formula": lambda: sdpa_kernel(SDPBackend.MATH),
    "no fast path of attention": lambda: setting(backends.mha.set_fastpath_enabled, False, True),
    "other seeds": lambda: seeded(123),
    "numpy raises": lambda: np.errstate(all="raise"),
    "numpy's buffers": lambda: setting(np.setbufsize, 16, 8192),
}


def digest(values) -> str:
    whole = hashlib.sha256()

    def add(value):
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                whole.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, torch.Tensor):
            whole.update(f"{value.dtype} {list(value.shape)} {value.device}".encode())
            whole.update(value.detach().contiguous().numpy().tobytes())
        else:
            whole.update(repr(value).encode())

    add(values)
    return whole.hexdigest()


def vectors():
    """Enough of them, and wide enough, for every compiled loop: by bytes where the processor has them."""
    generator = torch.Generator("cpu").manual_seed(0)
    made = torch.randn(1536, 64, generator=generator, dtype=torch.float32, device="cpu")
    made[::7, 5] *= 40
    return made


X = vectors()


def trained(name: str, folder: Path):
    wide = {"n_latents": 2048} | ({"k": 8} if "k" in ARCHITECTURES[name].model_fields else {})
    dictionary = ARCHITECTURES[name].model_validate(wide).build(64, seed=0)
    config = TrainingConfig(n_tokens=4 * 384, batch_size=384, dead_after=500)
    (done,) = fit([Job("one", dictionary, Binding.at("x"), 0)], TensorSource({"x": X}), config, reporter=Listener())
    z = dictionary.encode(X)
    assert not any(tensor.is_inference() for tensor in (z.values, *dictionary.tensors().values()))
    folded = dictionary.folded()
    save_dictionary(folder, dictionary)
    read = load_dictionary(folder)
    seen = [dictionary.tensors(), dictionary.config.fingerprint(), done.history, z.values, z.indices, z.offsets]
    seen += [dictionary.decode(z), dictionary.reconstruct(X[:9]), folded.tensors(), read.tensors()]
    return [*seen, read.read_directions(), read.write_directions(), (folder / "dictionary.safetensors").read_bytes()]


def read_network(folder: Path):
    seen = []
    for name, make in (("gpt2", tiny_gpt2), ("bert", tiny_bert)):
        with shield():  # of the test's own
            if not (folder / name).exists():
                make().save_pretrained(folder / name)
            tokens = torch.arange(24).view(2, 12) % 50
        network = load_network(folder / name, device="cpu")
        read = network.read(tokens, ["blocks.0.resid_post", "blocks.1.mlp_out"])
        seen += [network.fingerprint, {str(site): value.clone() for site, value in read.items()}]
        seen.append(network.run(tokens).logits.clone())
    return seen


def trained_toy(name: str):
    kind = TOYS[name].config
    toy = kind.model_validate({"steps": 20} if "steps" in kind.model_fields else {})
    (first, *_) = toy.train(Listener())
    found, sample = first.activations(64, torch.Generator("cpu").manual_seed(1))
    return [first.module.state_dict(), first.loss, found, sample.inputs, toy.build().state_dict().keys()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What each computation gives in a process where nothing is set."""
    known: dict[str, str] = {}

    def of(what, compute):
        if what not in known:
            known[what] = digest(compute())
        return known[what]

    return of


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_fit_and_an_encoding_are_the_same_bits(name, state, plain, tmp_path):
    wanted = plain(name, lambda: trained(name, tmp_path / "plain"))
    with STATES[state](), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trained(name, tmp_path / "set")
    assert digest(found) == wanted


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("state", STATES)
def test_a_network_is_loaded_named_and_read_to_the_same_bits(state, plain, networks):
    wanted = plain("networks", lambda: read_network(networks))
    with STATES[state]():
        found = read_network(networks)
    assert digest(found) == wanted


@pytest.mark.parametrize("state", STATES)
def test_a_toy_is_trained_to_the_same_bits(state, plain):
    wanted = plain("probe_steering", lambda: trained_toy("probe_steering"))
    with STATES[state]():
        found = trained_toy("probe_steering")
    assert digest(found) == wanted


@pytest.mark.parametrize("name", TOYS)
def test_every_way_into_a_toy_is_shielded(name):
    ways = [TOYS[name].config.build, TOYS[name].config.train, *TOYS[name].figures.values()]
    ways += [experiment.run for experiment in TOYS[name].experiments]
    assert all(way.__code__ is shielded(len).__code__ for way in ways)


def readable(read):
    with contextlib.suppress(RuntimeError):
        return read()
    return "unreadable"


def everything_set():
    """All that the states above set, as it is now."""
    pairs = [(b, of) for b in ("generic", "cuda", "mkldnn") for of in ("all", "matmul", "conv", "rnn")]
    of_pairs = {
        pair: torch._C._get_fp32_precision_getter(*pair) for pair in pairs if pair[1] == "all" or pair[0] != "generic"
    }
    table = {pair: value.replace("ieee", "none") for pair, value in of_pairs.items()}  # the same, said or not
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": table,
        "matmul": readable(torch.get_float32_matmul_precision),
        "cuda": readable(lambda: backends.cuda.matmul.allow_tf32),
        "cudnn": readable(lambda: backends.cudnn.allow_tf32),
        "mkldnn": backends.mkldnn.enabled,
        "deterministic": torch.get_deterministic_debug_mode(),
        "denormal": float(torch.full((), 1e-38, dtype=torch.float32, device="cpu") * 0.01) > 0,
        "anomaly": torch.is_anomaly_enabled(),
        "sdp": (backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()),
        "mha": backends.mha.get_fastpath_enabled(),
        "numpy": (np.geterr(), np.getbufsize()),
    }


@pytest.mark.parametrize("state", STATES)
def test_what_was_set_is_set_again_also_after_an_error(state):
    before, seen = everything_set(), []

    def fail():
        seen.append(everything_set())
        with shield():
            assert everything_set() == seen[0]
        raise ZeroDivisionError

    with STATES[state]():
        inside = everything_set()
        with pytest.raises(ZeroDivisionError):
            shielded(fail)()
        assert everything_set() == inside
    assert everything_set() == before
    assert inside != before or state == "other seeds"
    unread = dict.fromkeys(("precision", "matmul", "cuda", "cudnn"))
    assert seen[0] | unread == before | unread
    backends_here = ("mkldnn", "cuda") if torch.cuda.is_available() else ("mkldnn",)
    assert {seen[0]["precision"][backend, "matmul"] for backend in backends_here} == {"none"}


def test_what_somebody_sets_meanwhile_stays():
    with setting(torch.set_default_dtype, torch.float64, torch.float32), shield():
        assert torch.get_default_dtype() == torch.float32
        torch.set_default_dtype(torch.bfloat16)
        with shield():  # a call from a user's own function
            assert torch.get_default_dtype() == torch.float32
        torch.set_default_dtype(torch.float16)
    assert torch.get_default_dtype() == torch.float32  # put back by `setting`
    with shield():
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float32)


def test_the_last_of_several_threads_puts_back_what_was_set():
    """One that leaves first must not take the setting away from one that is still inside."""
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with shield():
            inside.set()
            leave.wait(30)
            seen.append(torch.get_default_dtype())

    with setting(torch.set_default_dtype, torch.float64, torch.float32):
        thread = threading.Thread(target=other)
        with shield():
            thread.start()
            inside.wait(30)
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join()
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.float64


def test_a_shielded_function_is_itself_and_is_no_generator():
    @shielded
    def half(x: float) -> float:
        """Half of it."""
        return x / 2

    assert (half(3), half.__name__, half.__doc__) == (1.5, "half", "Half of it.")
    with pytest.raises(AssertionError, match="generator"):

        @shielded
        def values():
            yield 1


def test_threads_of_the_pool_that_were_started_flushing_keep_denormals():
    code = """
import torch
torch.set_num_threads(2)
def zeros():
    return int((torch.full((1 << 20,), 1e-38) * torch.full((1 << 20,), 0.01) == 0).sum())
torch.set_flush_denormal(True)
zeros()
torch.set_flush_denormal(False)
from polyseme.kernels.library import loaded
from polyseme.kernels.shield import shield
before = zeros()
with shield():
    print(before > 0, zeros(), loaded() is None)
"""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["True", "0", "False"], ["False", "0", "False"]) or done.stdout.endswith("True\n")


ALLOCATE = {"zeros", "ones", "empty", "full", "rand", "randn", "tensor", "linspace", "eye", "logspace", "scalar_tensor"}


def test_what_makes_a_tensor_names_its_dtype_outside_the_toys():
    """The toys come in by shielded functions alone."""
    source = Path(polyseme.__file__).parent
    bare = []
    for path in sorted(source.rglob("*.py")):
        if path.is_relative_to(source / "zoo"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ALLOCATE):
                continue
            named = {keyword.arg for keyword in node.keywords}
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "torch" and not named & {"dtype", "out"}:
                bare.append(f"{path.relative_to(source)}:{node.lineno}")
    assert not bare
