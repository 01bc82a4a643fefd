"""What a function of the door cannot take is refused in a sentence with a fix, as users see it: without type checks."""

import json
import subprocess
import sys
from pathlib import Path

import polyseme
from tests.api.wrong_types import WRONG

NOT_CALLED = {"Study", "StudyResult", "fit_probe", *(name for name in polyseme.__all__ if name.endswith("Config"))}
"""Classes, which pydantic checks, and what refuses every call."""


def test_arguments_of_another_kind_are_refused_with_a_fix(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.api.wrong_types", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    assert {call: problem for call, problem in found.items() if problem} == {}
    called = {call.partition("(")[0] for call in found}
    assert called == {name for name in polyseme.__all__ if not name.startswith("_")} - NOT_CALLED
    assert len(found) > 20 * len(WRONG)
