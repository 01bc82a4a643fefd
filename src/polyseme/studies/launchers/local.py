"""Stages in processes side by side: on this machine, with its threads divided, or wherever a command starts them."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Stage

_POLL_SECONDS = 0.2


def units(plan: Plan) -> list[tuple[Stage[Any], ...]]:
    """Stages that one process runs one after the other: those of the study itself, and those of each draw of a null.

    What compares them is left to the process that reads all of them.
    """
    return [plan.alone, *(null.stages for null in plan.nulls)]


def run_units(plan: Plan, root: Path, jobs: int, launch: str, reporter: Reporter) -> None:
    """Run the units of a plan, at most `jobs` at a time, each in a process of its own.

    A stage that two processes need is made by one, and the other waits for it (the store's locks).

    Args:
        plan: kept in the store.
        root: folder of the store.
        jobs: processes at a time.
        launch: command line before that of each process, which it must run and wait for (`srun -c 4`); "" to start the
            processes here, with the machine's threads divided among them.
        reporter: receives the progress.

    Raises:
        InputError: a process failed; the others are stopped, and resume where they were.
    """
    waiting = list(units(plan))
    progress = reporter.task(f"studies side by side ({jobs} at a time)", len(waiting), "studies")
    running: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                unit = waiting.pop(0)
                ids, label = [plan.id(stage) for stage in unit], unit[0].label
                reporter.message(f"starting a process for {label}")
                running[label] = ids[0], _start(ids, root, jobs, launch)
            for label, (first, process) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[label]
                if status != 0:
                    raise InputError(
                        f"the process that ran {label} ended with status {status}",
                        where=f"polyseme stage {first}",
                        fix="its message stands above; to resume, run the same command again",
                    )
                done += 1
                progress.update(done)
            time.sleep(_POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def check_launch(launch: str) -> None:
    """Refuse a command line whose program is not here, before any work.

    Raises:
        InputError: it cannot be split into words, or its first word is no program.
    """
    try:
        words = shlex.split(launch)
    except ValueError as e:
        raise InputError(f"the command line cannot be read: {e}", where="launch", fix="close its quotes") from e
    if words and shutil.which(words[0]) is None:
        raise InputError(
            f"there is no program {words[0]!r}",
            where="launch",
            fix="name one that runs the command line after it and waits for it, like `srun -c 4`",
        )


def _start(ids: Sequence[str], root: Path, jobs: int, launch: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "polyseme", "stage", *ids, "--root", str(root.resolve())]
    if launch:
        return subprocess.Popen([*shlex.split(launch), *command])  # noqa: S603 - what the user gave, without a shell
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return subprocess.Popen(command, env=environment)  # noqa: S603 - our own command, ids of our own making
