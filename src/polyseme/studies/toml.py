"""Study files: TOML to a mapping, whatever the file is, in time and memory that its size bounds."""

import re
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel

from polyseme.core.errors import InputError, nearest_names
from polyseme.core.validation import MAX_DEPTH, cut, validate_config
from polyseme.store.failures import refusal

C = TypeVar("C", bound=BaseModel)
STANDARD_INPUT = "-"
MAX_BYTES = 1 << 20
MAX_KEYS = 2000
_HELP = "see docs/study.md"

_STRING_OR_COMMENT = re.compile(
    r"""
    \"{3} (?: [^"\\] | \\. | "{1,2}(?!") )*+ (?: "{3,5} | \Z )?    # a string of several lines
    | '{3} (?: [^'] | '{1,2}(?!') )*+ (?: '{3,5} | \Z )?
    | " (?: [^"\\\n] | \\[^\n] )*+ "?
    | ' [^'\n]*+ '?
    | \# [^\n]*+
    """,
    re.VERBOSE | re.DOTALL,
)


def load_config(path: Path, model: type[C]) -> C:
    """Read a TOML file into `model`.

    Raises:
        InputError: there is no such file, or it cannot be read, is not TOML, or does not fit the model.
    """
    return validate_config(read_toml(path), model, where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; `-` reads standard input.

    Raises:
        InputError: there is no such file, it is a folder, a device or a pipe, too large, not UTF-8, not TOML, empty, or
            nested deeper than any config.
    """
    data = _standard_input() if str(path) == STANDARD_INPUT else _file(path)
    where = cut(str(path), 200)
    if len(data) > MAX_BYTES:
        raise InputError("it is larger than 1 MiB, which no study file is", where=where, fix=_HELP)
    return parse_toml(_text(data, where), where)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    tomllib takes memory with the square of the number of parts of a dotted key, and recurses into arrays and inline
    tables, so both are counted before it is asked.

    Raises:
        InputError: not TOML, empty, or larger or deeper than any config.
    """
    _check_outline(text, where)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {cut(str(error), 200)}", where=where, fix="correct that line") from error
    except ValueError as error:  # Python's own limit on the digits of an integer
        fix = "no setting is as large as that"
        raise InputError("a number has more than 4,300 digits", where=where, fix=fix) from error
    if not value:
        raise InputError("the file sets no field", where=where, fix=f"name at least the network and its sites; {_HELP}")
    return value


def _file(path: Path) -> bytes:
    where = cut(str(path), 200)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError("there is no such study file", where=where, fix=_did_you_mean(path)) from error
    except OSError as error:
        raise refusal(error, where) from error
    except ValueError as error:  # a NUL in the path
        raise InputError(f"no file can be called that: {error}", where=where, fix="give the path of a file") from error
    if stat.S_ISDIR(mode):
        raise InputError("this is a folder", where=where, fix=_did_you_mean(path / "study.toml"))
    fix = f"give a file, or `{STANDARD_INPUT}` and the text on standard input"
    raise InputError("this is a device or a pipe, no file", where=where, fix=fix)


def _did_you_mean(path: Path) -> str:
    try:
        beside = [other.name for _, other in zip(range(1000), path.parent.glob("*.toml"), strict=False)]
    except (OSError, ValueError):
        beside = []
    near = nearest_names(path.name, beside)
    return f"did you mean {', '.join(near)}?" if near else f"give the path of a TOML file; {_HELP}"


def _standard_input() -> bytes:
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.isatty():
        fix = "pipe a study file into the command, or give its path"
        raise InputError("standard input is a terminal", where=STANDARD_INPUT, fix=fix)
    return stream.read(MAX_BYTES + 1)


def _text(data: bytes, where: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise InputError("the file is UTF-16 or UTF-32", where=where, fix="save it in UTF-8")
    try:
        return data.decode("utf-8-sig")  # with or without the mark that Windows puts in front
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"line {line} is not UTF-8", where=where, fix="save the file in UTF-8") from error


def _check_outline(text: str, where: str) -> None:
    """Refuse what no study needs: deep nesting, keys of many parts, thousands of keys."""
    outline = _STRING_OR_COMMENT.sub(lambda found: "" if found[0][0] == "#" else "s", text)
    depth = parts = keys = 0
    for c in outline:
        if c in "[{":
            depth += 1
        elif c in "]}":
            depth = max(0, depth - 1)
        elif c == ".":
            parts += 1
        if c in "=,[]{}\n":
            keys += c == "="
            parts = 0
        if depth > MAX_DEPTH or parts > MAX_DEPTH:
            what = f"tables are nested more than {MAX_DEPTH} deep"
            raise InputError(what, where=where, fix=f"a study has five levels; {_HELP}")
    if keys > MAX_KEYS:
        raise InputError(f"{keys:,} keys are more than the {MAX_KEYS:,} a study may have", where=where, fix=_HELP)
