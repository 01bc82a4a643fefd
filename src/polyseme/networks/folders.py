"""Model folders as strangers may have written them: what is in them is checked before transformers sees any of it.

Nothing a folder says makes anything be fetched or run. Weights are read from `*.safetensors` in the folder alone and
handed over as tensors, so that no index, adapter, pickle or distributed checkpoint in it is looked for; the config is
handed over without what names code, kernels or other files.
"""

import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.networks.config_values import check_value
from polyseme.store.files import is_deeper

_MEGABYTE = 2**20
_CONFIG_BYTES, _FILE_BYTES = 4 * _MEGABYTE, 64 * _MEGABYTE
_DEPTH = 64
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_COPY = "copy the folder again from where it came"

_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_EXPERTS = ("experts_implementation", "_experts_implementation", "_experts_implementation_internal")
_PLAIN = {
    *("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"),
    *("grouped_mm", "batched_mm"),
}
_DROPPED = ("transformers_weights", "kernel_config", "use_kernels", "fusion_config", "distributed_config")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
_TOKENIZER_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
_TOKENIZER_TEXT = ("vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def read_bytes(path: Path, most: int) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it is missing, may not be read, is no regular file, or is larger than `most` bytes.
    """
    data = _beginning(path, most + 1)
    if len(data) > most:
        raise InputError(
            f"{path.name} is larger than {most // _MEGABYTE} MiB, which none is", where=str(path), fix=_COPY
        )
    return data


def _beginning(path: Path, most: int) -> bytes:
    """The first bytes of a regular file; raises `InputError` where it is none, or may not be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path.name} is not a regular file", where=str(path), fix=_COPY)
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as error:
        raise InputError(f"The folder has no {path.name}", where=str(path.parent), fix=_COPY) from error
    except OSError as error:
        raise InputError(f"{path.name} may not be read: {error.strerror}", where=str(path), fix=_fix(error)) from error


def _fix(error: OSError) -> str:
    return "give yourself the right to read it" if isinstance(error, PermissionError) else "check the disk and the path"


def read_object(path: Path, most: int = _FILE_BYTES) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        InputError: as `read_bytes`, or it holds something else than an object, or one nested too deep.
    """
    data = read_bytes(path, most)
    try:
        value = json.loads(data)
        deep = is_deeper(value, _DEPTH)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{path.name} is damaged: {why}", where=str(path), fix=_COPY) from None
    if deep or not isinstance(value, dict):
        what = "is nested too deep" if deep else f"holds a {type(value).__name__} where an object belongs"
        raise InputError(f"{path.name} {what}", where=str(path), fix=_COPY)
    return cast(dict[str, Any], value)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json` without what could make anything be fetched or run.

    Raises:
        InputError: it is damaged, holds values no network has, asks for code from elsewhere, or says that the weights
            are quantised.
    """
    path = folder / "config.json"
    config = read_object(path, _CONFIG_BYTES)
    if not isinstance(config.get("model_type"), str):
        raise InputError("config.json has no `model_type`", where=str(path), fix="give a Hugging Face model folder")
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(_is_class_name(name) for name in names)):
        fix = "correct `architectures` in config.json, or remove it"
        raise InputError(f"`architectures` is {names!r:.200}, not a list of names of classes", where=str(path), fix=fix)
    return _cleaned(config, path)


def _is_class_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and len(name) <= 200


def _cleaned(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config, or a part of one, with what is dangerous refused or left out."""
    clean: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("quantization_config", "compression_config") and value:
            method = value.get("quant_method") if isinstance(value, dict) else None
            raise InputError(
                f"The weights are quantised ({method or key}), and networks are read in plain floating point",
                where=str(path),
                fix="load it with transformers, call model.dequantize() and model.save_pretrained(folder), and give "
                "that folder; or pass the quantised module itself to load_network",
            )
        if key in (*_ATTENTION, *_EXPERTS):
            _check_implementation(key, value, path)
            if key in _ATTENTION and value == "eager":
                clean["attn_implementation"] = "eager"
        elif key in ("dtype", "torch_dtype"):
            _check_dtype(value, path)
            clean[key] = value
        elif key not in _DROPPED:
            check_value(key, value, path)
            clean[key] = False if key == "use_pretrained_backbone" else _cleaned_value(key, value, path)
    return clean


def _cleaned_value(key: str, value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return _cleaned(cast(dict[str, Any], value), path)
    if isinstance(value, list):
        return [_cleaned_value(key, entry, path) for entry in cast(list[Any], value)]
    check_value(key, value, path)
    return value


def _check_implementation(key: str, value: Any, path: Path) -> None:
    values = list(cast(dict[str, Any], value).values()) if isinstance(value, dict) else [value]
    for one in values:
        if one is not None and not (isinstance(one, str) and one.removeprefix("paged|") in _PLAIN):
            raise InputError(
                f"`{key}` is {one!r}, which is none that transformers has itself; code from elsewhere is never fetched",
                where=str(path),
                fix='remove it, or set it to "eager" or "sdpa"',
            )


def _is_floating(name: str) -> bool:
    import torch

    dtype = getattr(torch, name, None)
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _check_dtype(value: Any, path: Path) -> None:
    values = list(cast(dict[str, Any], value).values()) if isinstance(value, dict) else [value]
    for one in values:
        name = one.removeprefix("torch.") if isinstance(one, str) else one
        if name is None or name == "auto" or (isinstance(name, str) and _is_floating(name)):
            continue
        raise InputError(
            f"`dtype` is {one!r}, which is no precision of real numbers", where=str(path), fix='set it to "float32"'
        )


# Weights


def weight_files(folder: Path) -> list[Path]:
    """The folder's files of weights, all of them `*.safetensors` in the folder itself.

    Raises:
        InputError: there are none, or the index names something else.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if _exists(single):
        return [single]
    if not _exists(index):
        _no_weights(folder)
    files = named_files(index)
    for path in files:
        if not _exists(path):
            raise InputError(f"{index.name} names {path.name}, which is missing", where=str(folder), fix=_COPY)
    return files


def named_files(index: Path) -> list[Path]:
    """The files an index names, beside it.

    Raises:
        InputError: the index is damaged, or names something else than a `*.safetensors` of its own folder.
    """
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index.name} has no `weight_map`", where=str(index), fix=_COPY)
    files: list[Path] = []
    for name in sorted({str(name) for name in cast(dict[str, Any], names).values()}):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", name):
            raise InputError(
                f"{index.name} names {name!r}, which is not a *.safetensors of the folder itself",
                where=str(index),
                fix="a pickle can run code when it is read; where you trust it, load it with transformers and call "
                "model.save_pretrained(folder)",
            )
        files.append(index.parent / name)
    return files


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # and opening it says what is wrong
    return True


def _no_weights(folder: Path) -> NoReturn:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"The folder has weights only as a pickle ({pickled[0]}), which can run code when it is read",
            where=str(folder),
            fix="where you trust it, load it with transformers and call "
            "model.save_pretrained(folder), which writes model.safetensors",
        )
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            "The folder holds an adapter, not a whole network",
            where=str(folder),
            fix="merge it into its network with peft (model.merge_and_unload()) and save that with save_pretrained",
        )
    if any(folder.glob("*.safetensors")):
        raise InputError(
            "The folder has no model.safetensors and no model.safetensors.index.json",
            where=str(folder),
            fix="save the network with model.save_pretrained(folder)",
        )
    raise InputError("The folder has no *.safetensors", where=str(folder), fix="give a folder with weights")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's weights; their numbers are read from the disk when they are used.

    Raises:
        InputError: a file is missing, may not be read, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        _beginning(path, 1)
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - the file is no mapping
                    weights[name] = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(
                f"The network cannot be loaded: {path.name} is damaged: {line}", where=str(path), fix=_COPY
            ) from error
    return weights


# Tokenizers


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has files of a tokenizer."""
    return any(_exists(folder / name) for name in TOKENIZER_FILES)


def check_tokenizer(folder: Path) -> None:
    """Refuse files of a tokenizer that are damaged, too large, or name a class that is no tokenizer.

    Raises:
        InputError: any of these.
    """
    for name in _TOKENIZER_TEXT:
        if _exists(folder / name):
            read_bytes(folder / name, _FILE_BYTES)
    found = {name: read_object(folder / name) for name in _TOKENIZER_JSON if _exists(folder / name)}
    config: Mapping[str, Any] = found.get("tokenizer_config.json", {})
    named = config.get("tokenizer_class")
    where = str(folder / "tokenizer_config.json")
    if named is None:
        return
    import transformers

    kind = getattr(transformers, named, None) if isinstance(named, str) else None
    is_other = isinstance(kind, type) and not issubclass(kind, transformers.PreTrainedTokenizerBase)
    if not isinstance(named, str) or (is_other and "Tokeniz" not in named):
        raise InputError(f"`tokenizer_class` is {named!r}, which is no tokenizer", where=where, fix="correct it")


def n_numbers(weights: Mapping[str, Tensor]) -> int:
    """How many numbers the weights hold."""
    return sum(math.prod(tensor.shape) for tensor in weights.values())
