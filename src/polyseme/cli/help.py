"""The help of a command: every field of its configs, of every choice too, in the words of the fields' docstrings."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from polyseme.cli.flags import HELP, Group
from polyseme.cli.table import columns, terminal_width
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.fields import FieldKind, Model, fields_of

_METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Section:
    """Flags under one heading.

    Attributes:
        name: of the table, which `--help NAME` asks for.
        title: the heading.
        about: what the table is.
        entries: each flag with its value, and its meaning.
        level: 1 within a choice, else 0.
    """

    name: str
    title: str
    about: str
    entries: list[tuple[str, str]]
    level: int = 0


def show_help(args: Sequence[str], groups: Sequence[Group], usage: str, about: str) -> None:
    """Print the help of a command, or of the one section that is named after `--help`.

    Raises:
        InputError: there is no such section.
    """
    sections = [section for group in groups for section in sections_of(group)]
    width = terminal_width()
    after = args[next(i for i, word in enumerate(args) if word in HELP) + 1 :]
    wanted = after[0].strip("-").replace("_", "-") if after else ""
    if not wanted:
        head = textwrap.wrap(f"usage: {usage}", width, subsequent_indent="       ")
        print("\n".join([*head, "", *textwrap.wrap(about, width), "", rendered(sections, width)]).rstrip())
        return
    chosen = [section for section in sections if f"{section.name}.".startswith(f"{wanted}.")]
    if not chosen:
        names = list(dict.fromkeys(section.name for section in sections))
        near = nearest_names(wanted, names)
        perhaps = f"did you mean {', '.join(near)}? " if near else ""
        fix = f"{perhaps}the sections are {', '.join(names)}"
        raise InputError(f"the help has no section {wanted!r}", where="--help", fix=fix)
    print(rendered(chosen, width))


def sections_of(group: Group) -> Iterator[Section]:
    """A group's flags: its own fields, then each table's, and of a choice each table's own fields apart."""
    about = _first_line(group.model)
    yield from _sections(_fields(group.model, group.given), group.prefix, group.prefix or group.title, about)


def _fields(model: Model, given: Any) -> dict[str, FieldKind]:
    """The fields of a config, their defaults what is given already."""
    known = cast(Mapping[str, Any], given) if isinstance(given, Mapping) else vars(given) if given is not None else {}
    fields = fields_of(model)
    return {
        name: replace(kind, default=known[name], required=False) if name in known else kind
        for name, kind in fields.items()
    }


def _sections(fields: Mapping[str, FieldKind], prefix: str, name: str, about: str) -> Iterator[Section]:
    own = [_entry(prefix, kind) for kind in fields.values() if kind.types or not kind.tables]
    yield Section(name, name, about, own)
    for kind in fields.values():
        below = _dotted(prefix, kind.name)
        if kind.tag:
            yield from _choice(kind, below)
        elif kind.types and kind.tables:
            lines = [_setting(field) for field in fields_of(kind.tables[""]).values()]
            yield Section(below, f"{below} = {{…}}", _first_line(kind.tables[""]), lines, level=1)
        elif kind.tables:
            line = _first_line(kind.tables[""]) + (" (default: none)" if kind.default is None else "")
            yield from _sections(_fields(kind.tables[""], kind.default), below, below, line)


def _choice(kind: FieldKind, name: str) -> Iterator[Section]:
    """A choice: how it is made, the fields that every table has, and those of each."""
    words, first = ", ".join(kind.tables), next(iter(kind.tables))
    text = f"One of {words}; the same as --{name}.{kind.tag}."
    if kind.many:
        text = f"Any of {words}, or none; with settings as an inline table: '{{{kind.tag} = \"{first}\", seed = 1}}'."
    # What is set of one table is kept by another that has the same field.
    tables = {word: _fields(table, None if kind.many else kind.default) for word, table in kind.tables.items()}
    fields = {word: [field for field in table.values() if field.name != kind.tag] for word, table in tables.items()}
    everywhere = set.intersection(*(set(map(_key, own)) for own in fields.values()))
    shared = [] if kind.many else [field for field in fields[first] if _key(field) in everywhere]
    entries = [(f"--{name} WORD{' …' if kind.many else ''}", f"{text} {_default(kind)}")]
    entries += [_entry(name, field) for field in shared]
    yield Section(name, name, kind.description or "Each choice has fields of its own.", entries)
    described = {_key(field): "" for field in shared}
    for word, own in fields.items():
        lines: list[tuple[str, str]] = []
        for field in own:
            before = described.setdefault(_key(field), word)
            flag, text = _setting(field) if kind.many else _entry(name, field)
            if before:
                lines.append((flag, text if before == word else f"As for {before}. {_default(field)}"))
        yield Section(name, f"{name} = {word}", _first_line(kind.tables[word]), lines, level=1)


def _key(kind: FieldKind) -> tuple[str, str, str]:
    """What two tables' fields have in common when they are one to the reader."""
    return kind.name, kind.description, _default(kind) if kind.description else str(kind.words)


def _dotted(prefix: str, name: str) -> str:
    return ".".join(filter(None, (prefix, name.replace("_", "-"))))


def _entry(prefix: str, kind: FieldKind) -> tuple[str, str]:
    """A field as a flag."""
    name = _dotted(prefix, kind.name)
    if kind.is_switch:
        return f"--{name}, --{_dotted(prefix, f'no-{kind.name}')}", _text(kind)
    return f"--{name} {_metavar(kind)}", _text(kind)


def _setting(kind: FieldKind) -> tuple[str, str]:
    """A field of a table in a list, which no flag sets by itself."""
    return f"{kind.name} = {'true|false' if kind.is_switch else _metavar(kind)}", _text(kind)


def _metavar(kind: FieldKind) -> str:
    if kind.words:
        words = "|".join(kind.words)
    else:
        words = "|".join(_METAVARS[each] for each in _METAVARS if each in kind.types) or "VALUE"
        words = words.replace("INT|NUMBER", "NUMBER")
    return words + ("|none" if kind.optional else "") + (" …" if kind.many else "")


def _text(kind: FieldKind) -> str:
    return f"{kind.description} {_default(kind)}".strip()


def _default(kind: FieldKind) -> str:
    if kind.required:
        return "(required)"
    return f"(default: {_said(kind.default, kind.tag)})" if kind.default != "" else ""


def _said(value: Any, tag: str) -> str:
    match value:
        case None | () | []:
            return "none"
        case bool():
            return "on" if value else "off"
        case BaseModel():
            return str(getattr(value, tag))
        case Mapping():
            return str(cast(Mapping[str, Any], value).get(tag, ""))
        case int() if abs(value) >= 10_000:
            return f"{value:_}"
        case tuple() | list():
            return " ".join(_said(item, tag) for item in cast(Sequence[Any], value))
        case _:
            return str(value)


def _first_line(model: Model) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def rendered(sections: Sequence[Section], width: int) -> str:
    """The sections as text of at most `width` columns: flags on the left where there is room for both."""
    column = 8 if width < 60 else 34 if width < 100 else 44
    lines: list[str] = []
    for section in sections:
        margin, head = "  " * section.level, f"{section.title}: {section.about}"
        lines += textwrap.wrap(head, width, initial_indent=margin, subsequent_indent=margin + "  ")
        for flag, text in section.entries:
            lines += columns(f"{margin}  {flag}", text, column, width)
        lines.append("")
    return "\n".join(lines).rstrip()
