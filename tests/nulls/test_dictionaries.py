"""Nulls of the dictionary freeze what they say and train the rest."""

from typing import Any

import pytest
import torch
from torch import Tensor

from polyseme.activations import TensorSource
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.dictionaries import ARCHITECTURES, ReLUConfig, SparseDictionary, TopKConfig
from polyseme.nulls import NULLS
from polyseme.nulls.dictionaries import DictionaryNull
from polyseme.training import Job, TrainingConfig, fit

FROZEN = {kind: null for kind, null in NULLS.items() if issubclass(null, DictionaryNull)}
each_frozen = pytest.mark.parametrize("kind", FROZEN)
NAMES = {"read": "W_enc", "write": "W_dec"}


def vectors(n: int = 1024, d: int = 8) -> Tensor:
    """Sparse sums of few directions: what a dictionary can learn."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(16, d, generator=generator), dim=1)
    return (torch.rand(n, 16, generator=generator) * (torch.rand(n, 16, generator=generator) < 0.1)) @ directions


def trained(dictionary: SparseDictionary, **changes: Any) -> SparseDictionary:
    x = vectors()
    config = TrainingConfig(**{"n_tokens": 8192, "batch_size": 256, "lr": 3e-3, **changes})
    fit([Job("only", dictionary, Binding.at("x"), 0)], TensorSource({"x": x}), config)
    return dictionary


def fvu(dictionary: SparseDictionary) -> float:
    x = vectors()
    return float((dictionary.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum())


@each_frozen
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("d_out", [None, 8], ids=["autoencoder", "transcoder"])
def test_what_is_frozen_stays_to_the_bit_and_everything_else_is_trained(
    kind: str, architecture: str, d_out: int | None
) -> None:
    null = FROZEN[kind]()
    config = ARCHITECTURES[architecture]
    settings = {"k": 4} if "k" in config.model_fields else {}
    if "eta" in config.model_fields and d_out is not None:
        settings["eta"] = 0  # a transcoder cannot encode again
    built = config(n_latents=24, **settings).build(8, d_out, seed=1)
    dictionary = null.dictionary(built, "only")
    frozen = {NAMES[direction] for direction in null.frozen}
    assert dictionary.frozen == frozen
    before = {name: tensor.clone() for name, tensor in dictionary.tensors().items()}
    trained(dictionary)
    after = dictionary.tensors()
    for name in ("W_enc", "W_dec", "b_dec", "b_enc"):
        assert torch.equal(before[name], after[name]) == (name in frozen), name


@each_frozen
def test_frozen_directions_are_random_unit_rows_of_their_own(kind: str) -> None:
    given = TopKConfig(n_latents=4000, k=4).build(8, seed=1)
    one, other = (FROZEN[kind]().dictionary(given, name) for name in ("one", "other"))
    assert not torch.equal(one.write_directions(), other.write_directions())
    rows = one.write_directions()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4000))
    # A uniformly random unit vector: mean 0, second moment 1/d.
    assert rows.mean(0).abs().max() < 5 / (8 * 4000) ** 0.5
    torch.testing.assert_close(rows.T @ rows / 4000, torch.eye(8) / 8, atol=0.01, rtol=0)


def test_training_the_directions_reconstructs_better() -> None:
    given = TopKConfig(n_latents=24, k=3).build(8, seed=1)
    scores = {kind: fvu(trained(null().dictionary(given, "only"))) for kind, null in FROZEN.items()}
    free = fvu(trained(given))
    assert free < min(scores.values())
    assert scores["frozen_directions"] > max(scores["frozen_decoder"], scores["frozen_encoder"])


def test_a_training_that_was_stopped_goes_on_with_the_same_frozen_directions(tmp_path: Any) -> None:
    def fresh() -> SparseDictionary:
        return FROZEN["frozen_decoder"]().dictionary(TopKConfig(n_latents=24, k=3).build(8, seed=1), "only")

    whole = trained(fresh())
    x, config = vectors(), TrainingConfig(n_tokens=8192, batch_size=256, lr=3e-3, checkpoint_seconds=0)

    class Stops(TensorSource):
        def batches(self, *args: Any, **kwargs: Any) -> Any:
            for i, batch in enumerate(super().batches(*args, **kwargs)):
                if i == 13:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        fit([Job("only", fresh(), Binding.at("x"), 0)], Stops({"x": x}), config, checkpoints=tmp_path)
    resumed = fresh()
    fit([Job("only", resumed, Binding.at("x"), 0)], TensorSource({"x": x}), config, checkpoints=tmp_path)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


def test_one_direction_of_a_tied_dictionary_cannot_be_frozen_alone() -> None:
    tied = ReLUConfig(n_latents=12, tie_weights=True).build(8, seed=1)
    for kind, direction in (("frozen_decoder", "write"), ("frozen_encoder", "read")):
        with pytest.raises(InputError, match=f"its {direction} directions cannot be frozen alone"):
            FROZEN[kind]().dictionary(tied, "only")
    both = FROZEN["frozen_directions"]().dictionary(tied, "only")
    assert both.frozen == {"W_dec"}
    before = both.tensors()["W_dec"].clone()
    trained(both, target_l0=3.0)
    assert torch.equal(both.tensors()["W_dec"], before)
