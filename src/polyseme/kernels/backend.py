"""Which operations compute, and why not faster ones: for a dictionary, for `polyseme info` and for a run's record."""

import torch

from polyseme.core.records import Backend
from polyseme.kernels import library as native
from polyseme.kernels.onednn import is_fastest
from polyseme.kernels.tiles import triton_kernels
from polyseme.kernels.tuning import DEFAULT, Tuning


def backend_in_use(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, tuning: Tuning = DEFAULT
) -> Backend:
    """What carries out the operations of a dictionary in this process, with as many threads as torch has now.

    Args:
        device: where its weights are.
        dtype: of its weights.
        tuning: the dictionary's.
    """
    level = native.LEVELS.get(torch.backends.cpu.get_cpu_capability(), native.BASE)
    no_loops = _why_no_loops(level)
    name, why_not = _chosen(torch.device(device).type, dtype, tuning, no_loops)
    return Backend(
        name=name,
        why_not=why_not,
        loops=None if no_loops else level,
        threads=torch.get_num_threads(),
        products_by_onednn=is_fastest(),
    )


def _chosen(device: str, dtype: torch.dtype, tuning: Tuning, no_loops: str | None):
    """The name of the backend, and why it is not the faster one of the device."""
    precision = str(dtype).removeprefix("torch.")
    match device:
        case "cuda" if dtype not in (torch.float32, torch.float64):
            return "torch", f"the Triton kernels take float32 and float64, not {precision}"
        case "cuda":
            return ("triton", None) if triton_kernels() else ("torch", "Triton is not installed")
        case "cpu" if not tuning.loops:
            return "torch", "the dictionary was built with loops=False"
        case "cpu" if dtype != torch.float32:
            return "torch", f"the compiled loops take float32, not {precision}"
        case "cpu":
            return ("torch", no_loops) if no_loops else ("loops", None)
        case _:
            return "torch", f"there are no kernels for {device}"


def _why_no_loops(level: str) -> str | None:
    """Why the compiled loops for this processor are not used; None where they are."""
    build, threads = native.library(level), torch.get_num_threads()
    if not build.exists():
        return f"{build.name} was not built: the installation found no C compiler that could"
    if native.loaded() is None:
        return f"{build.name} does not load on this system"
    if not native.usable():
        return f"the pool of torch's {threads} threads cannot be found on this system; with one thread it is not needed"
    return None
