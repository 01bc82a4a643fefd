"""What a process has held in memory."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Any


def peak_memory() -> float:
    """Largest resident memory of this process so far, bytes; NaN where the system does not say (Windows)."""
    try:  # Linux's own count: the one that getrusage gives a child starts at what its parent held
        status = Path("/proc/self/status").read_text()
        return 1024.0 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        resource = _resource()
        if resource is None:
            return math.nan
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)


def _resource() -> Any:
    """The limits that Unix keeps of a process; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch, on whichever device, could not allocate memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's allocator on the CPU raises a RuntimeError that only its message distinguishes from others.
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def available_memory() -> float:
    """Bytes that this process can still take: of the machine, of its control group and of its address space."""
    found = [math.inf]
    with contextlib.suppress(OSError, IndexError, ValueError):
        found.append(1024.0 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]))
    groups = Path("/sys/fs/cgroup")
    for most, held in (
        (groups / "memory.max", groups / "memory.current"),
        (groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # `max`: no limit
            found.append(float(int(most.read_text()) - int(held.read_text())))
    resource = _resource()
    limit = None if resource is None else resource.getrlimit(resource.RLIMIT_AS)[0]
    if resource is not None and limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(float(limit - pages * resource.getpagesize()))
    return max(0.0, min(found))
