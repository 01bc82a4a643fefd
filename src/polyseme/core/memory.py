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
