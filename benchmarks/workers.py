"""Contestants in their own processes and environments, taking turns on one machine."""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAUSE = 0.05
"""Seconds between two turns: the threads of the one before spin for a while before they sleep."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contestant's steps."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ms, n=4)
        return low, high


class Contestant:
    """A library at work in another process.

    Args:
        name: for tables.
        python: the interpreter that has the library.
        spec: as the script's `Spec`.
        script: beside this file.

    Raises:
        FileNotFoundError: no such interpreter.
    """

    def __init__(self, name: str, python: str, spec: Mapping[str, Any], *, script: str = "contestant.py"):
        self.name = name
        found = shutil.which(python)
        if found is None:
            raise FileNotFoundError(
                f"No interpreter at {python!r}: `make .venv-peers/.installed` makes .venv-peers/bin/python."
            )
        self._folder = tempfile.TemporaryDirectory()
        told = Path(self._folder.name) / "spec.json"
        told.write_text(json.dumps(dict(spec)))
        self._errors = (Path(self._folder.name) / "errors").open("w+")
        self._process = subprocess.Popen(
            # Not resolved: an environment's interpreter is a link to one that knows nothing of the environment.
            [os.path.abspath(found), str(Path(__file__).with_name(script)), str(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=self._folder.name,
        )

    def ask(self, word: str) -> dict[str, float]:
        """Say one word and wait for the answer.

        Raises:
            RuntimeError: the process ended; with the end of what it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{self.name} ended: {self._errors.read()[-6000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()


def take_turns(contestants: Sequence[Contestant], *, warmup: int, rounds: int) -> dict[str, Timing]:
    """`warmup` steps each, then `rounds` rounds of one step each."""
    for contestant in contestants:
        for _ in range(warmup):
            contestant.ask("step")
    taken: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            time.sleep(PAUSE)
            taken[contestant.name].append(contestant.ask("step")["ms"])
    return {name: Timing(tuple(ms)) for name, ms in taken.items()}


def save_figures(path: Path | None, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """What was measured, for `report.py`; nothing where no path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"about": dict(about), "rows": rows}, indent=1))
