"""Every field of every configuration of the package has a range, and nothing in range makes validation fall over."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import polyseme
from polyseme.core.config import MAX_PATH, Config, FilePath, Record

UNBOUNDED: dict[str, str] = {}
"""Class and field to the reason why it has no bounds."""


def _import_everything() -> None:
    for module in pkgutil.walk_packages(polyseme.__path__, "polyseme."):
        if ".kernels._" in module.name or module.name.endswith(("triton_kernels", "__main__")):
            continue  # libraries that are no modules, one that needs a GPU's compiler, and the command itself
        importlib.import_module(module.name)


def _below(kind: type[Config]) -> Iterator[type[Config]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("polyseme.") and not issubclass(child, Record):
            yield child
            yield from _below(child)


_import_everything()
CONFIGS = sorted(set(_below(Config)), key=lambda kind: (kind.__module__, kind.__name__))
BUILT = [kind for kind in CONFIGS if not inspect.isabstract(kind)]


def _unbounded(node: dict[str, Any], place: str) -> Iterator[str]:
    """The places of a JSON schema that take a number, a string or an array of any size."""
    if "$ref" in node or "const" in node or "enum" in node:
        return
    for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _unbounded(option, place)
    low = "minimum" in node or "exclusiveMinimum" in node
    high = "maximum" in node or "exclusiveMaximum" in node
    match node.get("type"):
        case "integer" | "number" if not (low and high):
            yield place
        case "string" if "maxLength" not in node:
            yield place
        case "array":
            if "maxItems" not in node:
                yield place
            for item in (*node.get("prefixItems", ()), *([node["items"]] if "items" in node else ())):
                yield from _unbounded(item, f"{place}[]")
        case "object":
            yield place  # a table of any keys
        case None if not {"anyOf", "oneOf"} & set(node):
            yield place  # anything at all
        case _:
            pass


def test_there_are_configs_to_look_at() -> None:
    names = {kind.__name__ for kind in CONFIGS}
    assert {"StudyConfig", "TopKConfig", "CalibrationConfig", "DiagnosisConfig", "SuperpositionToy"} <= names
    assert len(CONFIGS) > 60


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_field_has_bounds(kind: type[Config]) -> None:
    schema = kind.model_json_schema()
    found = [
        place
        for name, node in schema["properties"].items()
        for place in _unbounded(node, f"{kind.__name__}.{name}")
        if place not in UNBOUNDED
    ]
    assert not found, f"without bounds: {found}"


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_of_two_bounds_the_tighter_one_holds(kind: type[Config]) -> None:
    """`Width = Field(ge=2)` loses its 2 to the `ge=1` of `Width`; `Annotated[Width, Field(ge=2)]` keeps it."""
    properties = kind.model_json_schema()["properties"]
    bounds = {"ge": ("minimum", max), "le": ("maximum", min), "min_length": ("minItems", max)}
    for name, info in kind.model_fields.items():
        for bound, (key, tighter) in bounds.items():
            declared = [value for part in info.metadata if (value := getattr(part, bound, None)) is not None]
            if len(declared) > 1:
                assert properties[name][key] == tighter(declared), f"{kind.__name__}.{name}: {bound}"


@pytest.mark.parametrize("kind", BUILT, ids=lambda kind: kind.__name__)
def test_defaults_are_in_range_and_numbers_are_finite(kind: type[Config]) -> None:
    schema = kind.model_json_schema()
    needed = {name: _EXAMPLES.get(name) or schema["properties"][name]["enum"][0] for name in schema.get("required", ())}
    defaults = kind.model_validate(needed).model_dump()
    kind.model_validate(defaults)
    for name, node in schema["properties"].items():
        kinds = {option.get("type") for option in (node, *node.get("anyOf", ()))}
        for value in (float("inf"), float("-inf"), float("nan")) if kinds & {"number", "integer"} else ():
            with pytest.raises(ValidationError, match=name):
                kind.model_validate({**defaults, name: value})


_EXAMPLES: dict[str, Any] = {"paths": ["x"], "name": "x", "path": "x", "reads": "x", "writes": ["x", "y"]}
_EXAMPLES |= {"dictionary": {"architecture": "topk"}, "corpus": {"kind": "text", "paths": ["x"]}}
"""Values for fields that have no default."""


def _values(node: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What the schema allows, with a taste for its corners."""
    if "$ref" in node:
        return _values(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    if "const" in node:
        return st.just(node["const"])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    options = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    if options:
        return st.one_of([_values(option, definitions) for option in options])
    low, high = node.get("minimum"), node.get("maximum")
    match node.get("type"):
        case "integer":
            low = node["exclusiveMinimum"] + 1 if low is None else low
            high = node["exclusiveMaximum"] - 1 if high is None else high
            return st.one_of(st.sampled_from([low, high]), st.integers(low, min(high, low + 100)))
        case "number":
            least, most = node.get("exclusiveMinimum", low), node.get("exclusiveMaximum", high)
            return st.floats(least, most, exclude_min=low is None, exclude_max=high is None)
        case "boolean":
            return st.booleans()
        case "string":
            if "pattern" in node:
                return st.from_regex(node["pattern"]).filter(lambda s: len(s) <= node["maxLength"])
            return st.text(min_size=node.get("minLength", 0), max_size=min(20, node["maxLength"]))
        case "array":
            if "prefixItems" in node:
                return st.tuples(*(_values(item, definitions) for item in node["prefixItems"])).map(list)
            least = node.get("minItems", 0)
            most = min(node["maxItems"], least + 3)
            return st.lists(_values(node["items"], definitions), min_size=least, max_size=most)
        case "object":
            return st.fixed_dictionaries(
                {}, optional={name: _values(field, definitions) for name, field in node["properties"].items()}
            )
        case "null":
            return st.none()
        case other:
            raise AssertionError(f"a schema of an unknown type: {other}")


@pytest.mark.parametrize("kind", BUILT, ids=lambda kind: kind.__name__)
def test_what_is_in_range_is_taken_or_refused_by_name_and_never_falls_over(kind: type[Config]) -> None:
    schema = kind.model_json_schema()

    @settings(max_examples=25, deadline=5000, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(_values({"type": "object", **schema}, schema.get("$defs", {})))
    def check(value: dict[str, Any]) -> None:
        try:
            made = kind.model_validate(value)
        except ValidationError:
            return  # a rule over several fields
        assert kind.model_validate(made.model_dump(mode="json")) == made
        made.fingerprint()

    check()


@pytest.mark.parametrize("value", ["x" * (MAX_PATH + 1), "a\0b"])
def test_a_path_that_cannot_be_is_refused_before_the_system_is_asked(value: str) -> None:
    with pytest.raises(ValidationError, match=r"a path h"):
        TypeAdapter(FilePath).validate_python(value)
    assert TypeAdapter(FilePath).validate_python("x") == Path("x")
