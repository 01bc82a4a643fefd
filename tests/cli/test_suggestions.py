"""What an error or a help text tells people to type exists."""

import ast
import re
from pathlib import Path

import polyseme
from polyseme.cli import calibrate, diagnose, info, runs, sites, study, zoo
from polyseme.cli.flags import Group, flags_of
from polyseme.cli.table import COMMANDS
from polyseme.core.config import Config
from polyseme.diagnosis import DiagnosisConfig
from polyseme.networks import NetworkConfig
from polyseme.studies.config import StudyConfig
from polyseme.trials.calibration import CalibrationConfig

OTHERS = {"help", "version", "FIELD", "NAME", "toy.FIELD", "toy.seeds", "table.field"}
"""Flags that are no field of a config, and words that stand for any."""
GIT = {"porcelain", "untracked-files"}


def _texts() -> list[tuple[str, str]]:
    """Every string in the source that a person may read, with its file."""
    found: list[tuple[str, str]] = []
    for path in Path(polyseme.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((node.value, path.name))
    return found


def _flags() -> set[str]:
    options = [
        kind
        for module in (calibrate, diagnose, info, runs, sites, study, zoo)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Config)
    ]
    configs = [StudyConfig, CalibrationConfig, DiagnosisConfig, *options]
    tables = [flags_of([Group(kind)]) for kind in configs]
    return {name for table in [*tables, flags_of([Group(NetworkConfig, prefix="network")])] for name in table}


def test_flags_that_texts_name_exist() -> None:
    known = _flags() | OTHERS | GIT
    named = {
        (flag.rstrip("."), file)
        for text, file in _texts()
        for flag in re.findall(r"(?<![\w-])--([A-Za-z][\w.-]*)", text)
    }
    assert ("root", "runs.py") in named
    wrong = {(flag, file) for flag, file in named if flag not in known and not flag.startswith("no-")}
    wrong |= {(f, file) for f, file in named if f.startswith("no-") and f.removeprefix("no-") not in known}
    assert not wrong


def test_commands_that_texts_name_exist() -> None:
    named = {(word, file) for text, file in _texts() for word in re.findall(r"`polyseme ([a-z]+)", text)}
    assert ("study", "validation.py") in named
    assert not {(word, file) for word, file in named if word not in COMMANDS}


PLACES = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+)`")
"""A dotted name between backticks."""
FILES = {"json", "jsonl", "safetensors"}
"""What the names of files end in."""
TABLES = set(StudyConfig.model_fields)


def _raised() -> list[tuple[str, str]]:
    """The fields that errors are about (`where`), between backticks, with the file that raises them."""
    found: list[tuple[str, str]] = []
    for path in Path(polyseme.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "where":
                found += [
                    (" ".join(f"`{part.strip()}`" for part in text.value.split(",")), path.name)
                    for text in ast.walk(node.value)
                    if isinstance(text, ast.Constant) and isinstance(text.value, str)
                ]
    return found


def test_fields_of_a_study_that_texts_name_exist() -> None:
    known = {name.replace("-", "_") for name in flags_of([Group(StudyConfig)])}
    named = {
        (place, file)
        for text, file in [*_texts(), *_raised()]
        for place in PLACES.findall(text)
        if place.split(".")[0] in TABLES and place.rsplit(".", 1)[1] not in FILES
    }
    assert ("causal.n_samples", "requirements.py") in named
    assert ("dictionary.k", "activation.py") in named
    tables = {place.rsplit(".", depth)[0] for place in known for depth in (1, 2)}
    assert not {(place, file) for place, file in named if place not in known | tables}
