"""The base of every configuration, the ranges of its fields, and the hash that names what it makes."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MAX_SEED = 2**63 - 1
MAX_RESAMPLES = 20_000
MAX_PATH = 4096
"""Longest path in characters; Linux's own limit."""

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
"""A seed that every generator takes: a non-negative signed 64-bit integer."""
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000)]
"""At least one seed."""
Count = Annotated[int, Field(ge=1, le=10**12)]
"""A number of tokens, documents, rows or steps."""
Width = Annotated[int, Field(ge=1, le=2**24)]
"""A number of latents, neurons or features, or the rows of a batch."""
PassWindows = Annotated[int, Field(ge=1, le=2**16)]
"""Windows that one forward pass takes."""
Resamples = Annotated[int, Field(ge=1, le=MAX_RESAMPLES)]
"""Bootstrap replicates of an interval."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A share or a probability."""
Rate = Annotated[float, Field(gt=0, le=10)]
"""A learning rate."""
Strength = Annotated[float, Field(ge=0, le=1e6)]
"""The weight of a term in a loss."""
Name = Annotated[str, Field(min_length=1, max_length=512)]
"""A name of something, in one short string."""
Location = Annotated[str, Field(min_length=1, max_length=MAX_PATH)]
"""A path or a name on a hub."""


def _named(path: object) -> object:
    if path == "":
        raise ValueError("a path is empty; the current folder is '.'")
    return path


def _sayable(path: Path) -> Path:
    if len(str(path)) > MAX_PATH:
        raise ValueError(f"a path has at most {MAX_PATH} characters, this one has {len(str(path))}")
    if "\0" in str(path):
        raise ValueError("a path holds no NUL")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"a path holds no character {str(path)[error.start]!r}") from None
    return path


FilePath = Annotated[
    Path,
    BeforeValidator(_named),
    AfterValidator(_sayable),
    WithJsonSchema({"type": "string", "format": "path", "maxLength": MAX_PATH}),
]
"""A path that an operating system can open."""
FilePaths = Annotated[tuple[FilePath, ...], Field(max_length=100_000)]
"""Files and folders."""


class Config(BaseModel):
    """A frozen pydantic model: unknown keys are an error, and field docstrings are the `--help` texts.

    A component's `Config` lives beside the component and has a `build()` that makes it. Every number is finite and has
    a lower and an upper bound, every string and every tuple a greatest length (`tests/core/test_config.py` walks all).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    replaced: ClassVar[Mapping[str, str]] = {}
    """Keys that there once were, each with what took its place, for the error that refuses them."""

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the fully resolved config; equal configs have equal fingerprints."""
        return fingerprint(self.model_dump(mode="json"))


class Record(Config):
    """What polyseme writes and reads back: nobody sets its fields by hand, so it has no ranges, and NaN has a place."""

    model_config = ConfigDict(allow_inf_nan=True)


def identity(config: Config, exclude: Collection[str] = ()) -> dict[str, Any]:
    """What decides the result of a config, as JSON for a key: its fields without those that have their defaults.

    So a field that is added later, with a default that changes nothing, leaves every key as it is. The literal that
    names a config's kind (`kind`, `architecture`) stays, for it decides what the other defaults are.

    Args:
        config: any.
        exclude: names of fields that decide nothing.
    """
    chosen: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        is_tag = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
        if name not in exclude and (is_tag or not is_default):
            chosen[name] = _identity(value)
    return chosen


def _identity(value: Any) -> Any:
    if isinstance(value, Config):
        return identity(value)
    if isinstance(value, tuple | list):
        return [_identity(part) for part in cast("tuple[Any, ...]", value)]
    return str(value) if isinstance(value, Path) else value


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value` (sorted keys, no spaces, no NaN): 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
