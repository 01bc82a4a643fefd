"""A dictionary on disk: `dictionary.json` (what it is) and `dictionary.safetensors` (weights for raw activations)."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.precision import wide
from polyseme.dictionaries.base import DictionaryBase
from polyseme.dictionaries.engine.engine import SparseDictionary
from polyseme.kernels.shield import shielded
from polyseme.store import load_json, load_tensors, save_json, save_tensors, sha256, to_json
from polyseme.store.failures import refusals

SCHEMA = 1
LARGEST = 1e15
"""Largest weight: products of larger ones overflow."""
_KIND = "polyseme dictionary"
_DIGEST = "record_sha256"
"""Key of the record's checksum of itself: another k in it is still a dictionary, and gives other latents."""
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@shielded
def save(folder: Path, dictionary: SparseDictionary, metadata: dict[str, Any]) -> None:
    """Write a dictionary; see `polyseme.dictionaries.save_dictionary`."""
    folded = dictionary.folded()
    tensors = folded.weights()
    _check_saveable(tensors, folder)
    save_tensors(folder / "dictionary.safetensors", tensors)
    record: dict[str, Any] = {
        "kind": _KIND,
        "schema": SCHEMA,
        "config": dictionary.config.model_dump(mode="json"),
        "d_in": dictionary.d_in,
        "d_out": dictionary.d_out if dictionary.is_transcoder else None,
        "dtype": str(tensors["b_dec"].dtype).removeprefix("torch."),
        "sha256": sha256(folder / "dictionary.safetensors"),
        "metadata": to_json(metadata),
    }
    save_json(folder / "dictionary.json", {**record, _DIGEST: fingerprint(record)})


def _check_saveable(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse weights that `load` would refuse."""
    name, dtype = next(((n, t.dtype) for n, t in tensors.items() if t.dtype not in _DTYPES.values()), ("", None))
    if dtype is not None:
        raise InputError(
            f"tensor {name} is {str(dtype).removeprefix('torch.')}, and dictionaries are saved in float32 or float64",
            where=str(folder),
            fix="copy its tensors into a dictionary built with dtype=torch.float32",
        )
    if problem := _impossible(tensors):
        raise InputError(problem, where=str(folder), fix="train it again, or save an earlier checkpoint")


@shielded
def load(folder: Path, parse: Callable[[Any], DictionaryBase], device: torch.device | str) -> SparseDictionary:
    """Read a dictionary, `parse` making its config; see `polyseme.dictionaries.load_dictionary`."""
    record = read_record(folder)
    where = folder / "dictionary.json"
    try:
        config = parse(record["config"])
        d_in, d_out, dtype = record["d_in"], record["d_out"], _DTYPES[record["dtype"]]
    except (KeyError, TypeError, ValidationError) as error:
        raise DamagedArtifact(f"not a dictionary's record ({error})", where=str(where), fix="save it again") from None
    for width in (d_in, *([] if d_out is None else [d_out])):
        if not isinstance(width, int) or width < 1:
            raise DamagedArtifact(f"a width of {width!r}", where=str(where), fix="save it again")
    path = folder / "dictionary.safetensors"
    _check_sum(path, record.get("sha256"))
    tensors = load_tensors(path)
    try:
        n_latents = config.width(d_in)
    except InputError as error:
        raise DamagedArtifact(error.what, where=str(where), fix="save the dictionary again") from None
    # Checked against the file before anything is built, so that a false record cannot ask for all the memory.
    _expect(path, "W_dec", tensors.get("W_dec"), (n_latents, d_out or d_in), dtype)
    dictionary = config.build(d_in, d_out, seed=None, device=device, dtype=dtype)
    weights = dictionary.weights()
    if unknown := sorted(tensors.keys() - weights.keys()):
        raise DamagedArtifact(f"unexpected tensors {unknown}", where=str(path), fix="save it again")
    for name, weight in weights.items():
        _expect(path, name, tensors.get(name), tuple(weight.shape), dtype)
        weight.copy_(tensors[name])
    if problem := _impossible(weights):
        raise DamagedArtifact(problem, where=str(path), fix="save the dictionary again, from weights that are sound")
    return dictionary


def _check_sum(path: Path, wanted: object) -> None:
    if wanted is None:
        warnings.warn(
            f"{path} was saved without a checksum, so that damage to its numbers would not show; save it again",
            stacklevel=5,
        )
    elif not path.is_file():
        raise DamagedArtifact("the weights are missing", where=str(path), fix="save the dictionary again")
    elif sha256(path) != wanted:
        raise DamagedArtifact("the weights fail their checksum", where=str(path), fix="copy or save them again")


def _impossible(weights: Mapping[str, Tensor]) -> str | None:
    """What no dictionary that was saved here can hold; None where there is nothing."""
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            return f"tensor {name} holds NaN or infinities"
        if tensor.numel() and float(tensor.abs().max()) > LARGEST:
            return f"tensor {name} holds numbers beyond {LARGEST:g}"
    norms = torch.linalg.vector_norm(wide(weights["W_dec"]), dim=1)
    wrong = ((norms - 1).abs() > 1e-2) & (norms > 0)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        return f"row {row} of W_dec has norm {float(norms[row]):.3g}, not 1"
    for name in ("log_threshold", "r_mag"):
        if name in weights and float(weights[name].abs().max()) > 80:
            return f"tensor {name} holds logarithms of numbers beyond any activation"
    threshold = weights.get("threshold")
    if threshold is not None and float(threshold) < 0 and float(threshold) != -1:
        return f"the threshold is {float(threshold):.3g}"
    return None


def read_record(folder: Path) -> dict[str, Any]:
    """The parsed `dictionary.json`, without its checksum."""
    path = folder / "dictionary.json"
    with refusals(path):
        is_there = path.is_file()
    if not is_there:
        raise InputError(
            "there is no dictionary here",
            where=str(folder),
            fix="name a folder with dictionary.json and dictionary.safetensors, as save_dictionary writes them; "
            "pickled weights (.pt, .bin) are not read",
        )
    record = load_json(path)
    if not isinstance(record, dict) or cast(dict[str, Any], record).get("kind") != _KIND:
        raise DamagedArtifact("not a dictionary's record", where=str(path), fix="save the dictionary again")
    record = cast(dict[str, Any], record)
    digest = record.pop(_DIGEST, None)  # which earlier versions did not write
    if digest is not None and digest != fingerprint(record):
        raise DamagedArtifact(
            "the record of the dictionary was changed after it was saved: it fails its checksum",
            where=str(path),
            fix="copy or save the dictionary again",
        )
    if record.get("schema") != SCHEMA:
        raise InputError(
            f"a dictionary of schema {record.get('schema')!r}, this version reads {SCHEMA}",
            where=str(path),
            fix="update polyseme, or save the dictionary with this version",
        )
    return record


def _expect(path: Path, name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor is None:
        raise DamagedArtifact(f"tensor {name} is missing", where=str(path), fix="save the dictionary again")
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise DamagedArtifact(
            f"tensor {name} is {tensor.dtype} {list(tensor.shape)}, the record says {dtype} {list(shape)}",
            where=str(path),
            fix="save the dictionary again",
        )
