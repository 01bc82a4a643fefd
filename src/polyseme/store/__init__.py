"""The only code that writes results: artifacts under the hash of what made them, runs, checkpoints."""

from polyseme.store.arrays import load_array, load_tensors, load_tensors_metadata, save_array, save_tensors
from polyseme.store.artifacts import Artifact, FileRecord
from polyseme.store.checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from polyseme.store.files import (
    FileWriter,
    append_line,
    atomic_file,
    atomic_path,
    check_writable,
    load_json,
    load_lines,
    load_record,
    save_json,
    save_lines,
    save_record,
    save_text,
    sha256,
    to_json,
)
from polyseme.store.finding import find_run, list_runs, open_run
from polyseme.store.runs import Run, RunRecord, RunStatus
from polyseme.store.stages import Store

__all__ = [
    "Artifact",
    "Checkpoint",
    "FileRecord",
    "FileWriter",
    "Run",
    "RunRecord",
    "RunStatus",
    "Store",
    "append_line",
    "atomic_file",
    "atomic_path",
    "check_writable",
    "find_run",
    "latest_checkpoint",
    "list_runs",
    "load_array",
    "load_json",
    "load_lines",
    "load_record",
    "load_tensors",
    "load_tensors_metadata",
    "open_run",
    "save_array",
    "save_checkpoint",
    "save_json",
    "save_lines",
    "save_record",
    "save_tensors",
    "save_text",
    "sha256",
    "to_json",
]
