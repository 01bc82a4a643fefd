"""Values from outside (a file, flags, a mapping) into a validated config, with what is wrong in the words of its keys.

Whatever is given, the work is bounded: depth, size and number of keys before pydantic sees it, and afterwards the
number of problems that are put into words.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from polyseme.core.errors import InputError, nearest_names
from polyseme.core.fields import fields_of, models_at

C = TypeVar("C", bound=BaseModel)
MAX_DEPTH = 16
"""Tables and arrays inside one another; a study has five."""
MAX_VALUES = 250_000
"""Values in a config, in total."""
MAX_TEXT = 100_000
"""Characters of one string."""
MAX_PROBLEMS = 6
"""Problems an error names; the others are counted."""
_TABLE = "must be a table of fields (in Python a mapping)"
_KINDS = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
}
"""What pydantic says in Python's terms, in those of a study file."""
_MAX_SHOWN = 80
"""Characters of a value or a key in an error."""


def check_kind(given: object, kind: type[Any] | tuple[type[Any], ...], what: str, *, where: str, fix: str) -> None:
    """Refuse an argument of another kind.

    Args:
        given: anything.
        kind: what it must be an instance of.
        what: what is asked for, in a word or two: `network`.
        where: the argument's name.
        fix: what can be given.

    Raises:
        InputError: it is of another kind; a bool is no number.
    """
    if not isinstance(given, kind) or (isinstance(given, bool) and kind is int):
        raise InputError(f"an object of type {type(given).__name__} is no {what}", where=where, fix=fix)


def check_count(given: object, where: str) -> None:
    """Refuse an argument that is no whole number from 1.

    Raises:
        InputError: it is something else.
    """
    fix = "give a whole number from 1"
    check_kind(given, int, "whole number", where=where, fix=fix)
    if cast(int, given) < 1:
        raise InputError(f"{where} is {given}", where=where, fix=fix)


def path_of(given: object, where: str = "root") -> Path:
    """The path that a string or a path means.

    Raises:
        InputError: it is something else.
    """
    check_kind(given, (str, os.PathLike), "path", where=where, fix="give the path of a folder")
    return Path(cast(str, given))


def validate_config(value: Any, model: type[C], *, where: str, fix: str | None = None, prefix: str = "") -> C:
    """Validate a mapping as `model`.

    Args:
        value: from outside; anything at all.
        model: what it should be.
        where: what the mapping is, for the error.
        fix: what helps, where that is not the list of fields.
        prefix: of the names of its fields, where it is a table in something larger.

    Raises:
        InputError: names the keys that do not fit, with the nearest valid names.
    """
    check_size(value, where)
    try:
        made = model.model_validate(value)
    except ValidationError as error:
        raise input_error(error, value, model, where=where, fix=fix, prefix=prefix) from error
    wrong = next(_booleans(value, made, (prefix,) if prefix else ()), None)
    if wrong is not None:
        raise InputError(f"{wrong}: must be a number, not true or false", where=where, fix="give the number")
    return made


def check_size(value: Any, where: str) -> None:
    """Refuse a value that is too deep or too large to be a config, or has keys that are no names.

    Raises:
        InputError: it is.
    """
    found = 0
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str) and len(item) > MAX_TEXT:
                raise InputError(f"a text of {len(item):,} characters is no setting", where=where, fix="shorten it")
            if not isinstance(item, Mapping | list | tuple | set | frozenset):
                continue
            sized = cast("Mapping[Any, Any] | Sequence[Any]", item)
            found += len(sized)
            if found > MAX_VALUES:
                raise InputError(
                    f"a config has at most {MAX_VALUES:,} values", where=where, fix="leave most of them out"
                )
            if isinstance(sized, Mapping):
                for key in sized:
                    if not isinstance(key, str):
                        fix = "give the names of fields as strings"
                        raise InputError(f"the key {shown(key)} is not a string", where=where, fix=fix)
                inner += sized.values()
            else:
                inner += sized
        if not inner:
            return
        level = inner
    raise InputError(f"tables are nested more than {MAX_DEPTH} deep", where=where, fix="a config has five levels")


def input_error(
    error: ValidationError,
    value: Any,
    model: type[BaseModel],
    *,
    where: str,
    fix: str | None = None,
    prefix: str = "",
) -> InputError:
    """What pydantic found wrong with `value` as a `model`, in the words a person wrote it in."""
    problems = {
        ".".join(filter(None, (prefix, _place(value, problem)))): problem
        for problem in reversed(error.errors(include_url=False))
    }
    for place, problem in list(problems.items()):
        # An array whose elements are wrong is also called too short: nothing of it is left.
        if problem["type"] == "too_short" and any(other.startswith(f"{place}.") for other in problems):
            del problems[place]
    some = list(reversed(problems.items()))[:MAX_PROBLEMS]
    lines = [_worded(place, problem, value, model) for place, problem in some]
    if len(problems) > len(some):
        lines.append(f"and {len(problems) - len(some):,} more")
    return InputError(
        "; ".join(lines), where=where, fix=fix or "`polyseme study --help` lists every field with its meaning"
    )


def shown(value: Any) -> str:
    """A value for an error message: short, whatever it is, and without asking an object to describe itself."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"a number of more than {int((value.bit_length() - 1) * 0.30103):,} digits"
    if isinstance(value, str):
        return repr(cut(value))
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def cut(text: str, most: int = _MAX_SHOWN) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _worded(place: str, problem: Mapping[str, Any], value: Any, model: type[BaseModel]) -> str:
    """One of pydantic's findings: the place, what is wrong there, and what was given."""
    context = problem.get("ctx", {})
    given = problem["input"]
    name = place.rsplit(".", 1)[-1]
    match problem["type"]:
        case "extra_forbidden":
            models: list[Any] = [*models_at(model, value, problem["loc"][:-1])]
            for each in models:
                if name in getattr(each, "replaced", {}):
                    return f"there is no key {cut(place)!r} any more: {each.replaced[name]}"
            known = sorted({name for each in models for name in each.model_fields})
            near = nearest_names(name, known) or known
            return f"unknown key {cut(place)!r} (nearest: {', '.join(near[:5])})"
        case "missing":
            return f"{place} is missing"
        case "union_tag_invalid" | "union_tag_not_found":
            discriminator, tag = str(context["discriminator"]).strip("'"), context.get("tag")
            tags = [fields_of(each)[discriminator].words[0] for each in models_at(model, value, problem["loc"])]
            if tag is None:
                return f"{place}.{discriminator} is missing: one of {', '.join(tags)}"
            near = nearest_names(str(tag), tags)
            hint = f"nearest: {near[0]}; " if near else ""
            return f"{place}.{discriminator}: there is no {cut(str(tag))!r} ({hint}one of {', '.join(tags)})"
        case _:
            error = context.get("error")
            message = f"{error.what}: {error.fix}" if isinstance(error, InputError) else str(problem["msg"])
            said = _KINDS.get(problem["type"]) or cut(message.removeprefix("Value error, "), 300)
            said = said.replace("Input should be", "must be")
            scalar = isinstance(given, str | int | float) or given is None
            return f"{place}: {said}".removeprefix(": ") + (f" (given: {shown(given)})" if scalar else "")


def _place(value: Any, problem: Mapping[str, Any]) -> str:
    """The dotted key a person wrote: pydantic puts the tags of unions between, and those are left out."""
    parts: list[str] = []
    at: Any = value
    loc: tuple[int | str, ...] = problem["loc"]
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(at, Mapping):
            if part in at or (last and problem["type"] == "missing"):
                parts.append(cut(str(part)))
                at = cast(Mapping[str, Any], at).get(str(part))
        elif isinstance(at, list | tuple) and isinstance(part, int) and part < len(cast(list[Any], at)):
            parts.append(str(part))
            at = cast(list[Any], at)[part]
        elif last and not parts:
            parts.append(cut(str(part)))
    return ".".join(parts)


def _booleans(given: Any, made: Any, place: tuple[str, ...]) -> Iterator[str]:
    """Places where true or false was given and taken for a number."""
    if isinstance(given, bool):
        if isinstance(made, int | float) and not isinstance(made, bool):
            yield ".".join(place)
    elif isinstance(given, Mapping) and isinstance(made, BaseModel):
        for name, value in cast(Mapping[str, Any], given).items():
            yield from _booleans(value, getattr(made, name, None), (*place, name))
    elif isinstance(given, list | tuple) and isinstance(made, tuple):
        pairs = zip(cast(list[Any], given), cast(tuple[Any, ...], made), strict=False)
        for i, (value, result) in enumerate(pairs):
            yield from _booleans(value, result, (*place, str(i)))
