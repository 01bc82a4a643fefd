"""Where a result comes from: the code's commit, the packages' versions, the machine's kind."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from polyseme.core.config import Record

_PACKAGES = (
    "polyseme",
    "torch",
    "numpy",
    "scipy",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "pydantic",
)
_GIT_SECONDS = 10


class Git(Record):
    """The commit of the folder a run was started in."""

    commit: str
    dirty: bool
    """True when tracked files differed from the commit."""


class Provenance(Record):
    """What made a run, beside its config."""

    git: Git | None
    """None outside a git folder."""
    packages: dict[str, str]
    python: str
    platform: str
    argv: list[str]


def provenance(folder: Path | None = None) -> Provenance:
    """The provenance of work started now.

    Args:
        folder: whose git commit is recorded; the working folder by default.
    """
    return Provenance(
        git=_git(folder or Path.cwd()),
        packages=versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        # Bytes that are not UTF-8 are spelled out: JSON has no place for them.
        argv=[os.fsencode(argument).decode("utf-8", "backslashreplace") for argument in sys.argv],
    )


def versions(*others: str) -> dict[str, str]:
    """The versions of the packages that numbers depend on, those installed, and of `others`."""
    found: dict[str, str] = {}
    for package in (*_PACKAGES, *others):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _git(folder: Path) -> Git | None:
    git = shutil.which("git")
    if git is None:
        return None
    # Optional locks off: looking must not write into someone's repository.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        commit, status = (
            subprocess.run(  # noqa: S603 - fixed arguments, no shell
                [git, *command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=_GIT_SECONDS,
            ).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Git(commit=commit.strip(), dirty=bool(status.strip()))
