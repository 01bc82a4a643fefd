"""What the fields of a config are: tables inside tables, choices between tables, and what a single value may be."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

Model = type[BaseModel]


@dataclass(frozen=True)
class FieldKind:
    """One field of a config.

    Attributes:
        name: of the field.
        description: its docstring.
        default: None where it has none.
        required: it has no default.
        tables: the configs that may stand here: by the word that chooses each, or by "" where there is no choice.
        tag: the field that holds that word, in every one of them.
        many: several values, or several tables.
        words: the strings it is chosen from, where it is.
        types: int, float, str, bool, Path: what a single value may be.
        optional: None is a value.
    """

    name: str
    description: str
    default: Any
    required: bool
    tables: Mapping[str, Model]
    tag: str
    many: bool
    words: tuple[str, ...]
    types: frozenset[type]
    optional: bool

    @property
    def is_switch(self) -> bool:
        """True or false, and nothing else but None."""
        return len(self.types) == 1 and bool in self.types


@cache
def fields_of(model: Model) -> Mapping[str, FieldKind]:
    """Every field of a config by name, in the order in which they are declared, a choice's tag first."""
    found: dict[str, FieldKind] = {}
    for name, info in model.model_fields.items():
        leaves = list(_leaves(info.annotation))
        models = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
        tag = _tag(models) if len(models) > 1 else ""
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        found[name] = FieldKind(
            name=name,
            description=" ".join((info.description or "").split()),
            default=None if default is PydanticUndefined else default,
            required=info.is_required(),
            tables={_word(each, tag): each for each in models},
            tag=tag,
            many=_is_many(info.annotation),
            words=tuple(str(word) for leaf in leaves if get_origin(leaf) is Literal for word in get_args(leaf)),
            types=frozenset(leaf for leaf in leaves if leaf in (int, float, str, bool, Path)),
            optional=type(None) in leaves,
        )
    return found


def models_at(model: Model, value: Any, place: tuple[int | str, ...]) -> list[Model]:
    """The configs that the value at a place may be; where a choice is open, all of them.

    Args:
        model: of the whole value.
        value: the whole value, as it was given.
        place: names of fields, numbers of elements, and, as pydantic names places, words that choose a table.
    """
    choices: list[tuple[str, str, Model]] = [("", "", model)]  # tag, word, config
    at = value
    for part in place:
        named = [each for _, word, each in choices if word and word == part]
        if named:
            choices = [("", "", each) for each in named]
            continue
        if isinstance(part, int):
            at = at[part] if isinstance(at, list | tuple) and part < len(cast(list[Any], at)) else None
        else:
            kinds = [fields_of(each)[part] for _, _, each in choices if part in each.model_fields]
            if not kinds:  # the word of a table that stands where a single value may, too
                continue
            at = cast(Mapping[str, Any], at).get(part) if isinstance(at, Mapping) else None
            choices = [(kind.tag, word, each) for kind in kinds for word, each in kind.tables.items()]
        table = cast(Mapping[str, Any], at) if isinstance(at, Mapping) else {}
        chosen = [choice for choice in choices if choice[0] and table.get(choice[0]) == choice[1]]
        choices = chosen or choices
    return [each for _, _, each in choices]


def _tag(models: list[Model]) -> str:
    """The field that distinguishes some configs: the one that is a single word in each of them."""
    return next(
        name
        for name, info in models[0].model_fields.items()
        if get_origin(info.annotation) is Literal and all(_is_word(each, name) for each in models)
    )


def _is_word(model: Model, name: str) -> bool:
    info = model.model_fields.get(name)
    return info is not None and get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1


def _word(model: Model, tag: str) -> str:
    return str(get_args(model.model_fields[tag].annotation)[0]) if tag else ""


def _is_many(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Annotated, Union, types.UnionType):
        return any(_is_many(part) for part in get_args(annotation))
    return origin in (tuple, list)


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types a value, or an element of an array, may have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple, list):
        for part in get_args(annotation):
            if part is not Ellipsis:
                yield from _leaves(part)
    else:
        yield annotation
