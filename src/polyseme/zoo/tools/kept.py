"""Results that are kept as they are made, so that a run that was killed resumes after the last of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from polyseme.core.progress import Reporter
from polyseme.store import Artifact, Store, save_json

T = TypeVar("T")
SCRATCH = "checkpoints"


def kept(
    root: Path | None,
    stage: str,
    decisive: Any,
    make: Callable[[Path | None], T],
    kind: Any,
    file: str,
    *,
    version: int,
    reporter: Reporter,
    fresh: bool = False,
) -> T:
    """What `make` returns, or returned before at this version for the same `decisive`.

    Args:
        root: a folder of runs; None keeps nothing.
        stage: the name under which results are kept.
        decisive: everything that decides the result, as JSON.
        make: computes it; receives a folder for checkpoints that outlives a kill, or None where nothing is kept.
        kind: the type of the result, which pydantic writes and reads.
        file: the name of the file that holds it.
        version: the version of the code that makes it.
        reporter: receives progress updates.
        fresh: compute it even if it was kept.
    """
    if root is None:
        return make(None)
    adapter: TypeAdapter[T] = TypeAdapter(kind)

    def write(folder: Path) -> None:
        save_json(folder / file, adapter.dump_python(make(folder / SCRATCH), mode="json"))

    def load(artifact: Artifact) -> T:
        return artifact.parsed(file, adapter.validate_python)

    return Store(root).stage(
        stage, decisive, {}, write, load, version=version, scratch=(SCRATCH,), fresh=fresh, reporter=reporter
    )[1]
