"""Dead latents are made again from vectors that are reconstructed badly: what that does to each architecture."""

import pytest
import torch

from polyseme.core.seeds import make_generator
from polyseme.dictionaries import SparseDictionary, TopKConfig
from tests.dictionaries.reference import SMALL, make_batch
from tests.dictionaries.test_conformance import ALL, build, vectors

DEAD = torch.tensor([5, 2, 30])


def made_dead(name, port, frozen=(), dead=DEAD):
    """A dictionary with some dead latents, a batch, and which latents live."""
    dictionary, batch = build(name, port)
    if frozen:
        other = dictionary.untrained(seed=1, frozen=frozen)
        with torch.no_grad():
            for key, tensor in other.tensors().items():
                tensor.copy_(dictionary.tensors()[key])
        dictionary = other
    dictionary._parameters["b_enc"][dead] = -1e3
    live = torch.ones(32, dtype=torch.bool)
    live[dead] = False
    assert not (dictionary.encode(batch.x).dense()[:, dead] != 0).any()
    return dictionary, batch, live


def revived(dictionary, batch, live, seed=0, dead=DEAD):
    return dictionary.revive(batch, dead, live=live, progress=0.5, generator=make_generator(seed, "revive"))


def errors(dictionary, batch):
    """‖v − v̂‖², and v − v̂ in units of the decoder's rows."""
    error = batch.y - dictionary.reconstruct(batch.x)
    return error.square().sum(1), torch.nn.functional.normalize(error, dim=1)


@pytest.mark.parametrize(("name", "port"), ALL)
def test_a_revived_latent_is_active_on_the_vector_it_was_made_from_and_lowers_its_error(name, port):
    dictionary, batch, live = made_dead(name, port)
    squares, directions = errors(dictionary, batch)
    others = {key: tensor[live].clone() for key, tensor in dictionary._parameters.items() if len(tensor) == 32}
    latents = revived(dictionary, batch, live)
    assert latents.tolist() == DEAD[: len(latents)].tolist()
    n = len(latents)
    assert n == (1 if name == "relu tied" else 3)  # of whose overshooting errors few point along the vectors
    cosines = dictionary.write_directions()[latents] @ directions.T
    rows = cosines.argmax(1)
    assert len(set(rows.tolist())) == n
    torch.testing.assert_close(cosines.max(1).values, torch.ones(n), rtol=0, atol=1e-4)
    for key, tensor in others.items():
        assert torch.equal(dictionary._parameters[key][live], tensor), key
    # One at a time, for two new latents of one vector could take each other's place.
    for latent, row in zip(latents.tolist(), rows.tolist(), strict=True):
        alone = dictionary._parameters["b_enc"].clone()
        dictionary._parameters["b_enc"][latents[latents != latent]] = -1e3
        assert dictionary.encode(batch.x).of(latent)[row] > 0
        assert errors(dictionary, batch)[0][row] < squares[row]
        dictionary._parameters["b_enc"].copy_(alone)
    if port == "autoencoder":
        assert (dictionary._parameters["b_enc"][latents] <= 1e-6).all()
    stats = dictionary.accumulate(batch, progress=0.5, dead=None, coefficient=0.1)
    if name != "batch_topk" and name != "matryoshka":  # whose training takes the largest of the batch
        assert (stats.fired[latents] > 0).all()
    dictionary.after_step()
    norms = dictionary._parameters["W_dec"][latents].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(n))


@pytest.mark.parametrize(("name", "port"), ALL)
@pytest.mark.parametrize("frozen", [("read",), ("write",), ("read", "write")])
def test_a_frozen_direction_stays(name, port, frozen):
    if "tied" in name and len(frozen) == 1:
        pytest.skip("a tied dictionary refuses it (nulls: one direction of a tied dictionary cannot be frozen alone)")
    dead = torch.arange(16)
    dictionary, batch, live = made_dead(name, port, frozen, dead)
    before = {key: dictionary._parameters[key].clone() for key in dictionary.frozen}
    latents = revived(dictionary, batch, live, dead=dead)
    assert len(latents)
    for key, tensor in before.items():
        assert torch.equal(dictionary._parameters[key], tensor), key
    for latent, bias in zip(latents.tolist(), dictionary._parameters["b_enc"][latents].tolist(), strict=True):
        dictionary._parameters["b_enc"][latents] = -1e3  # one at a time, as above
        dictionary._parameters["b_enc"][latent] = bias
        assert (dictionary.encode(batch.x).of(latent) > 0).any()


def test_which_vectors_are_drawn_is_decided_by_the_generator_alone():
    one, two, other = ([*made_dead("topk", "autoencoder")] for _ in range(3))
    for (dictionary, batch, live), seed in ((one, 0), (two, 0), (other, 1)):
        revived(dictionary, batch, live, seed)
    assert torch.equal(one[0].tensors()["W_enc"], two[0].tensors()["W_enc"])
    assert not torch.equal(one[0].tensors()["W_enc"], other[0].tensors()["W_enc"])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_no_latent_is_revived_where_nothing_is_left_over(name):
    """Vectors that are the bias, in a dictionary of which no latent is active on them."""
    dictionary, batch, live = made_dead(name, "autoencoder")
    dictionary._parameters["b_enc"].fill_(-1e3)
    for tensor in dictionary._normalisation.tensors.values():
        tensor.fill_(float(tensor.dim() == 0))
    before = {key: tensor.clone() for key, tensor in dictionary.tensors().items()}
    bias = dictionary._parameters["b_dec"].expand_as(batch.x).clone()
    assert len(revived(dictionary, make_batch(bias), live)) == 0
    for key, tensor in dictionary.tensors().items():
        assert torch.equal(tensor, before[key]), key


def test_a_vector_is_not_taken_where_the_first_value_would_do_harm():
    """The bar of BatchTopK is the whole batch's: over twice what is left of a vector, a latent could only overshoot."""
    dictionary, batch, live = made_dead("batch_topk", "autoencoder")
    assert len(revived(dictionary, batch, live)) == 3
    dictionary._parameters["b_enc"][DEAD] = -1e3
    dictionary._activation.buffers["threshold"].fill_(1e3)
    assert len(revived(dictionary, batch, live)) == 0


def test_no_more_memory_than_some_rows_where_every_latent_is_active():
    dictionary = TopKConfig(n_latents=64, k=64).build(12, seed=0)
    batch = make_batch(vectors(3000, 12))
    dictionary.initialise(batch)
    asked = []
    select = dictionary._activation.select

    def counting(encoder, *, training):
        asked.append(len(encoder.x))
        return select(encoder, training=training)

    dictionary._activation.select = counting
    live = torch.ones(64, dtype=torch.bool)
    dictionary.revive(batch, torch.tensor([1]), live=live, progress=0.5, generator=make_generator(0))
    assert isinstance(dictionary, SparseDictionary)
    assert sum(asked) == 750
    assert max(asked) <= dictionary.tuning.block[0]
