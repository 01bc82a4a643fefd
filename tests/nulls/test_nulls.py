"""Every null of the table gives back the kind of thing that it takes, changed in its target alone."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from polyseme.core.errors import InputError
from polyseme.corpora import pack
from polyseme.networks import load_network
from polyseme.nulls import NULLS, Null, NullConfig, kind_of, make_null, on_network, on_windows
from polyseme.nulls.weights import WeightNull
from polyseme.studies.run import as_config
from tests import tiny

TEXTS = {f"d{i}": list(range(10 * i + 1, 10 * i + 61)) for i in range(6)}
WINDOWS = pack([(n, n) for n in TEXTS], lambda t: [TEXTS[n] for n in t], context=32, prefix=0)

FAMILIES = {"weights", "tokens", "dictionary", "labels", "latents"}


@pytest.mark.parametrize("null", NULLS, ids=lambda n: n.__name__)
def test_a_null_changes_its_target_alone_and_says_what_it_keeps(null: type[Null]) -> None:
    assert null.targets in FAMILIES
    assert null().preserves
    assert null().destroys
    network = load_network(tiny.tiny_gpt2())
    before = [parameter.clone() for parameter in network.module.parameters()]
    others = [on_network(null(seed=seed), network) for seed in (3, 3, 4)]
    texts = [on_windows(null(seed=seed), WINDOWS, tiny.VOCABULARY) for seed in (3, 3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(before, network.module.parameters(), strict=True))
    assert (others[0] is not network) == (null.targets == "weights")
    assert (texts[0] is not WINDOWS) == (null.targets == "tokens")
    if null.targets == "weights":
        assert others[0].fingerprint == others[1].fingerprint != others[2].fingerprint != network.fingerprint
    if null.targets == "tokens":
        np.testing.assert_array_equal(texts[0].tokens, texts[1].tokens)
        assert (texts[0].tokens != texts[2].tokens).any()
        np.testing.assert_array_equal(texts[0].special, WINDOWS.special)


@pytest.mark.parametrize("null", NULLS, ids=lambda n: n.__name__)
def test_a_null_is_known_by_its_kind(null: type[Null]) -> None:
    one = null()
    assert TypeAdapter(NullConfig).validate_python(one.model_dump()) == one
    assert type(make_null(kind_of(one))) is null


@pytest.mark.parametrize("null", [n for n in NULLS if issubclass(n, WeightNull)], ids=lambda n: n.__name__)
def test_a_null_that_keeps_the_embeddings_says_so(null: type[WeightNull]) -> None:
    kept = null(keep_embeddings=True)
    assert "embeddings" in kept.preserves
    assert "except in the input embeddings" in kept.destroys
    assert "embeddings" not in null().preserves + null().destroys


def test_nulls_that_differ_have_names_that_differ() -> None:
    names = {null(seed=seed).name for null in NULLS for seed in (0, 1)}
    names |= {
        null(keep_embeddings=True, seed=seed).name for null in NULLS if issubclass(null, WeightNull) for seed in (0, 1)
    }
    assert len(names) == 2 * (len(NULLS) + 3)
    assert {null().name for null in NULLS} == {kind_of(null()) for null in NULLS}


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
