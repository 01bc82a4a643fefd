"""`polyseme info`: what this installation is and what it computes with, for a bug report or a methods section."""

import json
import os
import platform
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.cli.runs import RootOptions
from polyseme.kernels.backend import backend_in_use
from polyseme.screen.console import make_console
from polyseme.store import list_runs
from polyseme.store.provenance import versions

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # `json` is also a deprecated method of pydantic's, which nobody calls

    class InfoOptions(RootOptions):
        """What is looked at, and how it is printed."""

        json: bool = False  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        """Print JSON."""


def info(line: Line) -> int:
    """Print it: as JSON, as a table on a terminal, else as lines of `section.name value`."""
    (options,) = line.configs(Group(InfoOptions))
    found, console = gathered(options.root), make_console()
    rows = [(f"{section}.{name}", _text(value)) for section, values in found.items() for name, value in values.items()]
    if options.json:
        print(json.dumps(found, indent=2))
    elif console.is_terminal:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(overflow="fold", style="bold")
        table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        print(*map(" ".join, rows), sep="\n")
    return 0


def gathered(root: Path) -> dict[str, Any]:
    """All of it, as JSON.

    Args:
        root: folder of runs.

    Raises:
        InputError: a file stands there, or it cannot be read.
    """
    backend = backend_in_use()
    packages = versions("huggingface-hub", "filelock", "pyarrow", "matplotlib", "triton")
    return {
        "versions": {"python": platform.python_version(), **packages},
        "system": {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "torch": {
            "threads": torch.get_num_threads(),
            "vector_instructions": torch.backends.cpu.get_cpu_capability(),
            "devices": _devices(),
            "auto": "cuda" if torch.cuda.is_available() else "cpu",
        },
        "loops": {
            "compiled": backend.loops,
            "why_not": backend.why_not,
            "products_by_onednn": backend.products_by_onednn,
        },
        "runs": {"root": str(root.absolute()), "exists": root.is_dir(), "n_runs": len(list_runs(root))}
        | {"free_bytes": shutil.disk_usage(_existing(root)).free},
    }


def _devices() -> list[str]:
    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _processor() -> str:
    with suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text(errors="replace").split("model name")[1].split("\n")[0].strip("\t :")
    return platform.processor() or platform.machine()


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.absolute().parent)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
