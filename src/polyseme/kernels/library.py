"""Loops in C, where they were built (`hatch_build.py`): their library, and torch's threads to run them.

What they compute stands beside the Python that calls them (`compiled`, `int8`, `attention`), by `loops.Loop` alone;
everything works without them by torch's operations. The library is built when the package is, once for each level of
vector instructions. It starts no threads: it borrows the pool that torch itself uses, by the function that compiled
OpenMP code calls.
"""

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEVELS = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
"""What torch calls a processor's abilities, and the build for it; any other takes `BASE`."""
BASE = "base"


def library(level: str) -> Path:
    """Where the build for a level lies, or would lie."""
    return Path(__file__).with_name(f"_kernels_{level}.so")


POINTER, SIZE = ctypes.c_void_p, ctypes.c_int64


class _Pool(ctypes.Structure):
    _fields_ = (("fork", POINTER), ("threads", SIZE))


@functools.cache
def _fork() -> int | None:
    """Address of `GOMP_parallel` as torch's own calls of it are resolved; None where torch has no OpenMP that has it.

    On Linux the first that is visible to all counts (a runtime that was preloaded, or the one that torch loaded so),
    then that of the libraries which torch's depends on; macOS resolves by library alone. Another OpenMP runtime in the
    process, as scikit-learn brings one, is never taken.
    """
    of_torch = sys.modules["torch._C"].__file__
    for of in (None, of_torch) if sys.platform == "linux" else (of_torch,):
        try:
            return ctypes.cast(ctypes.CDLL(of).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError, TypeError):  # no such function; Windows has no library of that name
            continue
    return None


def loaded() -> Any:
    """The library for what torch says the processor can do, or None where it was not built or does not load."""
    return _loaded(torch.backends.cpu.get_cpu_capability())


@functools.cache
def _loaded(capability: str) -> Any:
    path = library(LEVELS.get(capability, BASE))
    try:
        return ctypes.CDLL(str(path)) if path.exists() else None
    except OSError:
        return None


def usable(*tensors: Tensor) -> bool:
    """Whether the library is there and takes these: float32 on a CPU."""
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors):
        return False
    if loaded() is None:
        return False
    return torch.get_num_threads() == 1 or _fork() is not None


def has(name: str) -> bool:
    """Whether the library has that function: one that was built from older sources may lack it."""
    return hasattr(loaded(), name)


def pool() -> ctypes.Structure:
    """Torch's threads, as the functions of the library take them (`pool.h`)."""
    return _Pool(_fork() or 0, torch.get_num_threads())


def keep_denormals() -> None:
    """Let no thread of the pool take denormal numbers for 0: what was started by a thread that did does so for good."""
    keep = getattr(loaded(), "polyseme_keep_denormals", None)
    if keep is not None:
        keep(ctypes.byref(pool()))
