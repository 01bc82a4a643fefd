"""What of a config decides a key: every field that differs from its default, and the literal of its kind."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from polyseme.core.config import Config, fingerprint, identity


class Small(Config):
    kind: Literal["small"] = "small"
    width: int = 3
    rate: float = 0.1


class Large(Config):
    kind: Literal["large"] = "large"
    width: int = 9


class Whole(Config):
    name: str
    size: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    sizes: tuple[Small | Large, ...] = ()
    order: Literal["first", "last"] = "first"
    folder: Path = Path("here")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Whole(name="a"), {"name": "a"}),
        (Whole(name="a", size=Small(width=3)), {"name": "a"}),
        (Whole(name="a", size=Small(rate=0.2)), {"name": "a", "size": {"kind": "small", "rate": 0.2}}),
        (Whole(name="a", size=Large()), {"name": "a", "size": {"kind": "large"}}),
        (Whole(name="a", sizes=(Small(), Large(width=1))), {
            "name": "a",
            "sizes": [{"kind": "small"}, {"kind": "large", "width": 1}],
        }),
        (Whole(name="a", order="last", folder=Path("there/x")), {"name": "a", "order": "last", "folder": "there/x"}),
        (Small(), {"kind": "small"}),
    ],
)  # fmt: skip
def test_what_decides_a_result_is_said_and_nothing_else(config: Config, said: object) -> None:
    assert identity(config) == said
    json.dumps(identity(config))


def test_a_field_that_is_added_with_a_default_leaves_the_identity_as_it_is() -> None:
    class Later(Small):
        depth: int = 1

    assert identity(Later()) == identity(Small())
    assert identity(Later(depth=2)) == {"kind": "small", "depth": 2}


def test_fields_that_decide_nothing_are_left_out_by_name() -> None:
    assert identity(Whole(name="a", order="last"), exclude=("name",)) == {"order": "last"}


def test_equal_identities_are_of_equal_configs() -> None:
    configs = [Whole(name=n, size=s, order=o) for n in "ab" for s in (Small(), Small(width=4), Large(), Large(width=3))
               for o in ("first", "last")]  # fmt: skip
    assert len({fingerprint(identity(c)) for c in configs}) == len(configs)
