"""Every null of the table gives back the kind of thing that it takes, changed in its target alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.corpora import Windows, pack
from polyseme.dictionaries import SparseDictionary, TopKConfig
from polyseme.networks import Network, load_network
from polyseme.nulls import NULLS, Null, NullConfig, Written, kind_of, make_null
from polyseme.nulls.protocol import Target
from polyseme.nulls.weights import WeightNull
from polyseme.studies.run import as_config
from tests import tiny

TEXTS = {f"d{i}": list(range(10 * i + 1, 10 * i + 61)) for i in range(6)}
WRITTEN = Written(
    directions=torch.nn.functional.normalize(torch.randn(10, 6, generator=torch.Generator().manual_seed(1)), dim=1),
    density=np.where(np.isin(np.arange(10), [0, 9]), 0, 0.1),
    size=np.linspace(1, 2, 10),
    vectors=torch.randn(50, 6, generator=torch.Generator().manual_seed(2)),
)
LATENT = np.array([1, 1, 4, 8, 8, 8, 2])
each_null = pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)


def of_network(network: Network) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.module.parameters()])


def of_windows(windows: Windows) -> Tensor:
    return torch.from_numpy(windows.tokens.copy()).flatten()


def of_dictionary(dictionary: SparseDictionary) -> Tensor:
    return torch.cat([dictionary.read_directions().flatten(), dictionary.write_directions().flatten()])


THINGS: dict[Target, tuple[Callable[[], Any], Callable[[Null, Any], Any], Callable[[Any], Tensor]]] = {
    "weights": (lambda: load_network(tiny.tiny_gpt2()), lambda null, it: null.network(it), of_network),
    "tokens": (
        lambda: pack([(n, n) for n in TEXTS], lambda t: [TEXTS[n] for n in t], context=32, prefix=0),
        lambda null, it: null.windows(it, tiny.VOCABULARY),
        of_windows,
    ),
    "dictionary": (
        lambda: TopKConfig(n_latents=12, k=3).build(6, seed=9),
        lambda null, it: null.dictionary(it, "site-seed0"),
        of_dictionary,
    ),
    "labels": (lambda: torch.arange(24).reshape(12, 2) // 3, lambda null, it: null.labels(it), torch.clone),
    "latents": (
        lambda: WRITTEN.directions[LATENT] * 3,
        lambda null, it: null.latents(it, LATENT, WRITTEN, 6),
        torch.clone,
    ),
}
"""What each target is: an example, what a null makes of it, and all its numbers."""


@each_null
@pytest.mark.parametrize("target", THINGS)
def test_a_null_changes_its_target_alone_and_says_what_it_keeps(null: type[Null], target: Target) -> None:
    assert null.targets in THINGS
    assert set(THINGS) == set(get_args(Target))
    assert null().preserves
    assert null().destroys
    example, under, numbers = THINGS[target]
    given = example()
    before = numbers(given)
    one, again, other = (under(null(seed=seed), given) for seed in (3, 3, 4))
    assert torch.equal(numbers(given), before)
    if target != null.targets:
        assert one is given
        assert again is given
        assert other is given
        return
    assert type(one) is type(given)
    assert torch.equal(numbers(one), numbers(again))
    assert not torch.equal(numbers(one), before)
    assert not torch.equal(numbers(one), numbers(other))


@each_null
def test_a_null_is_known_by_its_kind(null: type[Null]) -> None:
    assert NULLS[kind_of(null)] is null
    assert kind_of(null()) == kind_of(null) == null().name
    assert make_null(kind_of(null), seed=3) == null(seed=3)


def test_every_null_of_a_network_a_text_or_a_dictionary_can_be_said_in_a_study() -> None:
    said = get_args(get_args(NullConfig)[0])
    assert set(said) == {null for null in NULLS.values() if null.targets in ("weights", "tokens", "dictionary")}
    for null in said:
        assert TypeAdapter(NullConfig).validate_python(null(seed=2).model_dump()) == null(seed=2)


def test_the_guide_says_what_each_null_keeps_and_destroys() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    for kind, null in NULLS.items():
        assert f"| `{kind}` | {null.targets} | {null.kept} | {null.lost} |" in guide


def test_an_unknown_null_is_refused() -> None:
    with pytest.raises(InputError, match="there is no null 'gaussian_init'"):
        make_null("gaussian_init")


@pytest.mark.parametrize("null", [n for n in NULLS.values() if issubclass(n, WeightNull)], ids=lambda n: n.__name__)
def test_a_null_that_keeps_the_embeddings_says_so(null: type[WeightNull]) -> None:
    kept = null(keep_embeddings=True)
    assert "embeddings" in kept.preserves
    assert "except in the input embeddings" in kept.destroys
    assert "embeddings" not in null().preserves + null().destroys


def test_nulls_that_differ_have_names_that_differ() -> None:
    seeds = (0, 1)
    names = [null(seed=seed).name for null in NULLS.values() for seed in seeds]
    names += [
        null(keep_embeddings=True, seed=seed).name
        for null in NULLS.values()
        if issubclass(null, WeightNull)
        for seed in seeds
    ]
    assert len(set(names)) == len(names) == 2 * (len(NULLS) + 3)


def test_the_same_control_twice_is_refused_and_another_seed_is_another_control() -> None:
    twice = {"kind": "gaussian_reinit", "seed": 3}
    with pytest.raises(InputError, match=r"gaussian_reinit_seed3 more than once: remove one or give another `seed`"):
        as_config({"name": "x", "controls": [twice, {"kind": "shuffled_tokens"}, twice]})
    config = as_config({"name": "x", "controls": [twice, {**twice, "seed": 4}, {**twice, "seed": 0}]})
    assert [control.name for control in config.controls] == [
        "gaussian_reinit_seed3",
        "gaussian_reinit_seed4",
        "gaussian_reinit",
    ]
