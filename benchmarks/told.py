"""What a contestant's process is told, and where it answers; needs nothing but torch."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, TextIO

import torch


def told(kind: type[Any]) -> tuple[Any, TextIO]:
    """The spec in the file that the command line names, and the stream for answers.

    What libraries print goes to the standard error stream: it must not be taken for an answer.

    Args:
        kind: of the spec; it has `threads`.
    """
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = kind(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    return spec, talk


def held() -> dict[str, float]:
    """MiB that are in memory now, and that were at most.

    From the kernel's own count of this process where there is one: the peak that `getrusage` gives a child starts at
    what its parent held.
    """
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {name: int(status[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
        return {"now": peak, "peak": peak}
