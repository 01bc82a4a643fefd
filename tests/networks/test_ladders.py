"""The ladder of a network: a file beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from polyseme.core.errors import InputError
from polyseme.evaluation import Rung
from polyseme.networks import load_network
from polyseme.networks.families import FAMILIES
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("network")
    tiny.tiny_gpt2().save_pretrained(place)
    return place


def write(folder: Path, value: Any) -> Path:
    path = folder / "ladder.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def rungs(*sizes: Any, ce: Any = 2.5) -> dict[str, Any]:
    return {
        "corpus": "any",
        "rungs": [{"n_parameters": n, "heldout_ce_nats_per_token": ce, "size": "x"} for n in sizes],
    }


def test_any_folder_may_have_one(folder: Path) -> None:
    n = sum(p.numel() for p in tiny.tiny_gpt2().parameters())
    write(folder, rungs(10, n, 10**9))
    network = load_network(folder, device="cpu")
    assert network.ladder == tuple(Rung(n_parameters=size, ce=2.5) for size in (10, n, 10**9))
    assert network.changed(lambda module, names: None, {"by": "a null"}).ladder == ()  # other weights are no rung
    (folder / "ladder.json").unlink()
    assert load_network(folder, device="cpu").ladder == ()


def test_the_shipped_network_has_one_and_a_module_has_none() -> None:
    network = load_network("pylm", device="cpu")
    assert network.n_parameters in {rung.n_parameters for rung in network.ladder}
    assert load_network(network.module).ladder == ()


BAD = {
    "no JSON": ("{", "JSON"),
    "a list": ([1], "no ladder"),
    "no rungs": ({}, "no ladder"),
    "a rung without its CE": ({"rungs": [{"n_parameters": 3}]}, "no ladder"),
    "a CE that is none": (rungs(10, 10**9, ce="low"), "no ladder"),
    "a size of 0": (rungs(0, 10**9), "no parameters"),
    "one size": (rungs(10**9), "1 different sizes in 1"),
    "a size twice": (rungs(10, 10**9, 10), "2 different sizes in 3"),
    "all larger": (rungs(10**8, 10**9), "reaches from 100,000,000"),
    "all smaller": (rungs(1, 2), "reaches from 1 to 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_ladder_of_the_network_is_refused_before_any_work(case: str, folder: Path) -> None:
    value, says = BAD[case]
    path = write(folder, value)
    with pytest.raises(InputError, match=says) as caught:
        load_network(folder, device="cpu")
    assert caught.value.where == str(path)
    path.unlink()


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.head_maps is not None], ids=lambda f: f.name
)
def test_a_family_that_knows_its_heads_maps_knows_the_norm_before_them(family: Any) -> None:
    kinds = {"gpt2": "gpt2", "gpt_neox": "neox", "llama": "llama", "gemma2": "gemma2"}
    make = getattr(tiny, f"tiny_{kinds[family.name]}", None)
    if make is None:
        from tests.networks.architectures import made

        make = lambda: made("gemma2")  # noqa: E731
    base = make().base_model
    attention = base.get_submodule(family.attention.format(n=1))
    W_V, W_O = family.head_maps(attention, base.config.num_attention_heads)
    assert len(W_V) == len(W_O) == base.config.num_attention_heads
    assert W_V.shape[1] == W_O.shape[2] == base.get_submodule(family.attention_norm.format(n=1)).weight.shape[0]
