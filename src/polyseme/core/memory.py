"""What a process has held in memory."""

import resource
import sys
from pathlib import Path


def peak_memory() -> float:
    """Largest resident memory of this process so far, bytes."""
    try:  # Linux's own count: the one that getrusage gives a child starts at what its parent held
        status = Path("/proc/self/status").read_text()
        return 1024.0 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch, on whichever device, found no room for what it was asked for."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's allocator on the CPU raises a RuntimeError that only its words tell from others.
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
