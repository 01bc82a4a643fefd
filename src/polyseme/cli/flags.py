"""Flags into configs: the same fields, values and errors as in a study file, `--table.field VALUE` for `[table] field`.

A flag's text becomes what the same value would be in TOML, flags are laid over what a file says, and the result is
validated once. So a choice is changed by naming another (`--dictionary.architecture jumprelu`, or `--dictionary
jumprelu`), tables in a list are named by their words (`--controls spectrum_reinit shuffled_tokens`) or written as
inline tables, and nothing is right in a file and wrong as a flag.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import BaseModel

from polyseme.core.errors import InputError, nearest_names
from polyseme.core.fields import FieldKind, Model, fields_of
from polyseme.core.validation import cut, shown, validate_config
from polyseme.studies.toml import parse_toml

HELP = ("-h", "--help")
WHERE = "the flags"
_EMPTY = ("none", "null")


@dataclass(frozen=True)
class Group:
    """One config that flags fill in.

    Attributes:
        model: the config.
        prefix: of its flags: `toy` for `--toy.seeds`; "" for none.
        given: what a file or the command itself says already.
        source: the file, for errors.
        title: over its flags in the help.
    """

    model: type[BaseModel]
    prefix: str = ""
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    source: str = ""
    title: str = "options"


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: as it is typed, without the dashes in front.
        group: the number of its group.
        path: of the field in that group's config.
        kind: of the field; of all of them, where several tables of a choice have it.
    """

    name: str
    group: int
    path: tuple[str, ...]
    kind: FieldKind

    def error(self, what: str, fix: str) -> InputError:
        """The error that this flag has a fault."""
        return InputError(f"--{self.name} {what}", where=WHERE, fix=fix)


def parse(args: Sequence[str], groups: Sequence[Group], command: str) -> list[Any]:
    """Flags into one config for each group.

    Args:
        args: of the command line, without the command and what stands before the first flag.
        groups: the configs that are wanted.
        command: that was given, for errors: `polyseme study`.

    Raises:
        InputError: a flag is unknown or lacks its value, or a config does not fit.
    """
    table = flags_of(groups)
    overlays: list[dict[str, Any]] = [{} for _ in groups]
    for flag, value in _pairs(args, table, command):
        _put(overlays[flag.group], flag, value)
    made: list[Any] = []
    for group, overlay in zip(groups, overlays, strict=True):
        where = " and ".join(filter(None, (group.source, WHERE if overlay or not group.source else "")))
        value = _laid_over(group.given, overlay, group.model)
        fix = f"`{command} --help` lists every flag with its meaning"
        made.append(validate_config(value, group.model, where=where, fix=fix, prefix=group.prefix))
    return made


def flags_of(groups: Sequence[Group]) -> dict[str, Flag]:
    """Every flag by its name."""
    table: dict[str, Flag] = {}
    for number, group in enumerate(groups):
        start = (group.prefix,) if group.prefix else ()
        for path, kind in fields_below(group.model):
            name = ".".join((*start, *path)).replace("_", "-")
            known = table.get(name)
            table[name] = Flag(name, number, path, kind if known is None else _joined(known.kind, kind))
    return table


def fields_below(model: Model, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldKind]]:
    """Path and kind of every field of a config and of the tables in it; a choice's fields once for each table."""
    for name, kind in fields_of(model).items():
        yield (*path, name), kind
        for table in () if kind.many else kind.tables.values():
            yield from fields_below(table, (*path, name))


def _joined(a: FieldKind, b: FieldKind) -> FieldKind:
    return replace(
        a,
        types=a.types | b.types,
        words=tuple(dict.fromkeys((*a.words, *b.words))),
        optional=a.optional or b.optional,
        many=a.many or b.many,
    )


def _pairs(args: Sequence[str], table: Mapping[str, Flag], command: str) -> Iterator[tuple[Flag, Any]]:
    """Each flag with its value, in the order in which they are given."""
    at = 0
    while at < len(args):
        word = args[at]
        at += 1
        if not _is_flag(word):
            fix = (
                "put what is no flag before all flags, and each value after its own, as in --name VALUE; "
                "give a text that begins with a dash as --name=VALUE"
            )
            raise InputError(f"{cut(word)!r} belongs to no flag", where=WHERE, fix=fix)
        name, equals, text = word.partition("=")
        flag, negated = _known(name, table, command)
        texts = [text] if equals else []
        most = 0 if equals or negated else len(args) if flag.kind.many else 1
        if flag.kind.is_switch and most:
            words = ("true", "false", *(_EMPTY if flag.kind.optional else ()))
            most = 1 if at < len(args) and args[at].lower() in words else 0
        while len(texts) < most and at < len(args) and not _is_flag(args[at]):
            texts.append(args[at])
            at += 1
        if flag.kind.is_switch and not texts:
            texts = ["false" if negated else "true"]
        if not texts:
            raise flag.error("lacks its value", f"give it as --{flag.name} VALUE")
        yield flag, _value(texts, flag)


def _is_flag(word: str) -> bool:
    """False for what can only be a value: a number below 0, or the dash that means standard input."""
    return word.startswith("-") and word != "-" and _number(word) is None


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None


def _known(word: str, table: Mapping[str, Flag], command: str) -> tuple[Flag, bool]:
    """The flag that a word names, and whether it switches it off.

    Raises:
        InputError: none; names the nearest.
    """
    name = word.lstrip("-").replace("_", "-")
    positive = re.sub(r"(^|\.)no-", r"\1", name, count=1)
    if word.startswith("--"):
        if name in table:
            return table[name], False
        if positive in table and table[positive].kind.is_switch:
            return table[positive], True
    near = nearest_names(name, list(table), 3) or nearest_names(name.rpartition(".")[2], list(table), 3)
    hint = f"did you mean {', '.join(f'--{other}' for other in near)}? " if near else ""
    raise InputError(f"there is no flag {cut(word)!r}", where=WHERE, fix=f"{hint}see `{command} --help`")


def _value(texts: list[str], flag: Flag) -> Any:
    """What the texts are in TOML."""
    kind = flag.kind
    if kind.tables and texts[0].lower() in _EMPTY and len(texts) == 1 and (kind.many or kind.optional):
        return [] if kind.many else None
    values = [_table(text, flag) if kind.tables else _scalar(text, kind) for text in texts]
    return values if kind.many else values[0]


def _table(text: str, flag: Flag) -> Any:
    kind = flag.kind
    if text.startswith("{"):
        return parse_toml(f"value = {text}", f"--{flag.name}")["value"]
    if kind.types:  # a single value may stand here, too
        return text
    if kind.tag:
        return {kind.tag: text}
    name = next(iter(fields_of(kind.tables[""]))).replace("_", "-")
    raise flag.error(f"is a table, not {shown(text)}", f"set its fields one by one, such as --{flag.name}.{name}")


def _scalar(text: str, kind: FieldKind) -> Any:
    if kind.optional and text.lower() in _EMPTY:
        return None
    if kind.types & {int, float} and (number := _number(text)) is not None:
        return number
    return {"true": True, "false": False}.get(text.lower(), text) if bool in kind.types else text


def _put(overlay: dict[str, Any], flag: Flag, value: Any) -> None:
    """Put a flag's value into the mapping of its group; the values of a list may come by several flags.

    Raises:
        InputError: a single value is given twice.
    """
    at: Any = overlay
    *tables, name = flag.path
    for part in tables:
        at = at.setdefault(part, {}) if at is not None else None
    old = at.get(name) if at is not None else None
    if at is not None and name not in at:
        at[name] = value
    elif flag.kind.many and isinstance(value, list) and isinstance(old, list):
        old += value
    elif isinstance(old, dict) and isinstance(value, dict) and not set(old) & set(value):  # type: ignore[reportUnknownArgumentType]
        old.update(value)
    else:
        raise flag.error("is given twice", "leave one of them out")


def _laid_over(given: Mapping[str, Any], overlay: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """`given` with what the flags say; a table that the file leaves out starts from its default."""
    out = dict(given)
    for name, value in overlay.items():
        out[name] = value
        kind = fields_of(model).get(name)  # None: a field of another choice, which validation refuses
        if kind is None or not isinstance(value, dict) or kind.many or not kind.tables:
            continue
        changes = cast(dict[str, Any], value)
        default = kind.default.model_dump() if isinstance(kind.default, BaseModel) else {}
        old = given.get(name, default)
        old = dict(cast(Mapping[str, Any], old)) if isinstance(old, Mapping) else {}
        word = changes.get(kind.tag, old.get(kind.tag)) if kind.tag else ""
        table = kind.tables.get(word) if isinstance(word, str) else None
        if table is None:  # pydantic says which words there are
            out[name] = {**old, **changes}
            continue
        if kind.tag and word != old.get(kind.tag):
            old = {key: kept for key, kept in old.items() if key in table.model_fields and key != kind.tag}
        if kind.tag and name not in given and kind.tag not in changes and not set(changes) <= set(table.model_fields):
            continue  # the default is not what was meant, and which one is must be said
        out[name] = _laid_over(old, {**({kind.tag: word} if kind.tag else {}), **changes}, table)
    return out
