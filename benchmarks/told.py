"""What a contestant's process is told, and where it answers; needs nothing but torch."""

import json
import os
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


def status_mib(field: str) -> float:
    """MiB of this process from Linux's account of it: `VmRSS` resident now, `VmHWM` at most so far.

    `getrusage` will not do: the peak that it gives a child starts at what its parent held.
    """
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024
