"""Bindings: equal by what is read and written, JSON in and out, and a plain name or a table in a config."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import Field, TypeAdapter

from polyseme.core.binding import Binding, BindingConfig, Bound, bound, located, side_by_side
from polyseme.core.config import Config
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.core.validation import validate_config

A, B = Site(path="a"), Site(path="b", port="in")


class Bindings(Config):
    """Several."""

    sites: tuple[Bound, ...] = Field(max_length=10)
    """Where."""


def test_bindings_of_the_same_places_are_equal_whatever_they_are_called() -> None:
    assert Binding((A,), (B,)) == Binding((A,), (B,), "mine")
    assert len({Binding((A,), (B,)), Binding((A,), (B,), "mine"), Binding((A,), (A,)), Binding.at(A, "a")}) == 2
    assert Binding((A, B), (A,)) != Binding((B, A), (A,)), "the order is that of the vectors"


@pytest.mark.parametrize(
    ("binding", "name", "is_autoencoder", "places"),
    [
        (Binding.at(A), "a.out", True, (A,)),
        (Binding.at("resid"), "resid", True, ("resid",)),
        (Binding((A,), (B,)), "a.out → b.in", False, (A, B)),
        (Binding(("x", "y"), ("x", "y")), "x + y", True, ("x", "y")),
        (Binding(("x", "y"), ("y", "z")), "x + y → y + z", False, ("x", "y", "z")),
        (Binding(("x",), ("y",), "mlp 1"), "mlp 1", False, ("x", "y")),
    ],
)
def test_names_and_places(binding: Binding[Any], name: str, is_autoencoder: bool, places: tuple[Any, ...]) -> None:
    assert (str(binding), binding.is_autoencoder, binding.places) == (name, is_autoencoder, places)


def test_vectors_stand_side_by_side_in_the_order_of_their_places() -> None:
    assert side_by_side(("x", "y"), {"x": 3, "y": 5}.__getitem__) == {"x": slice(0, 3), "y": slice(3, 8)}


def test_a_binding_found_in_a_network_keeps_its_name() -> None:
    found = Binding(("a", "b"), ("b",)).map({"a": A, "b": B}.__getitem__)
    assert found == Binding((A, B), (B,))
    assert str(found) == "a + b → b"


def test_a_binding_comes_back_from_json() -> None:
    table = TypeAdapter(Binding[Site])
    binding = Binding((A, B), (B,), "both")
    back = table.validate_json(table.dump_json(binding))
    assert (back, back.name) == (binding, "both")


@pytest.mark.parametrize(("reads", "writes"), [((), (A,)), ((A,), ()), ((A, A), (B,)), ((A,), (B, B))])
def test_nothing_and_twice_are_refused(reads: tuple[Site, ...], writes: tuple[Site, ...]) -> None:
    with pytest.raises(InputError, match=r"names no place|names one place twice"):
        Binding(reads, writes)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("a", Binding(("a",), ("a",))),
        (A, Binding((A,), (A,))),
        (Binding((A,), (B,)), Binding((A,), (B,))),
        ({"reads": "a", "writes": ["b", "c"]}, Binding(("a",), ("b", "c"))),
        (BindingConfig(reads=("a",), writes=("b",)), Binding(("a",), ("b",))),
    ],
)
def test_a_place_by_itself_is_read_and_written(given: Any, meant: Binding[Any]) -> None:
    assert bound(given) == meant
    found = meant.map(lambda place: A if place == "a" else place)
    assert located(given, SimpleNamespace(site={"a": A, "b": "b", "c": "c"}.__getitem__)) == found


@pytest.mark.parametrize("given", [None, 3, b"a", ("a", "b"), ["a"]])
def test_what_names_no_site_is_refused_with_a_fix(given: Any) -> None:
    with pytest.raises(InputError, match=rf"type {type(given).__name__} names no site") as refused:
        bound(given, "job x")
    assert refused.value.where == "job x"
    assert "blocks.2.resid_post" in str(refused.value.fix)
    with pytest.raises(InputError, match=r"unknown key 'write' \(nearest: writes, reads\)[^F]*Fix: give the name"):
        bound({"reads": "a", "write": "b"})


def test_a_side_may_be_a_place_by_itself_or_a_list() -> None:
    assert Binding("ab", ["c", "d"]) == Binding(("ab",), ("c", "d"))  # pyright: ignore[reportArgumentType]
    assert Binding(A, B) == Binding((A,), (B,))  # pyright: ignore[reportArgumentType]


def test_a_config_takes_names_and_tables() -> None:
    config = Bindings.model_validate(
        {"sites": ["a", {"reads": "a", "writes": ["b", "c"]}, {"reads": ["a"], "writes": ["b"], "name": "mlp"}]}
    )
    assert [bound(given) for given in config.sites] == [
        Binding.at("a"),
        Binding(("a",), ("b", "c")),
        Binding(("a",), ("b",)),
    ]
    assert [str(bound(given)) for given in config.sites] == ["a", "a → b + c", "mlp"]
    dumped = config.model_dump(mode="json")
    assert dumped["sites"][0] == "a", "a plain name stays one, in keys and in files"
    assert Bindings.model_validate(dumped) == config
    assert Bindings(sites=(BindingConfig(reads=("a",), writes=("b",)),)).sites[0] != "a"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "sites.0: must be a valid string (given: 3)"),
        ("", "sites.0: String should have at least 1 character"),
        ({"reads": "a"}, "sites.0.writes is missing"),
        ({"reads": "a", "writes": []}, "sites.0: `writes` names no place"),
        ({"reads": ["a", "a"], "writes": "b"}, "sites.0: `reads` names one place twice: a, a"),
        ({"reads": ["a", 3], "writes": "b"}, "sites.0.reads.1: must be a valid string (given: 3)"),
        ({"reads": "a", "writs": "b", "writes": "b"}, "unknown key 'sites.0.writs' (nearest: writes, reads)"),
    ],
)
def test_what_is_no_binding_is_refused_in_the_words_of_the_file(given: Any, says: str) -> None:
    with pytest.raises(InputError) as error:
        validate_config({"sites": [given]}, Bindings, where="study.toml")
    assert says in str(error.value)
