"""Drawn vectors keep the contract of every source: batch b is the same wherever one starts, and nothing is held."""

import pytest
import torch

from polyseme.activations import ActivationSource, DrawnSource
from polyseme.activations import drawn as module
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.dictionaries import TopKConfig
from polyseme.training import Job, TrainingConfig, fit


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(module, "GROUP", 10)


def source(n_tokens=25, seed=0, drawn=None, **changes):
    def draw(n, generator):
        if drawn is not None:
            drawn.append(n)
        return torch.randn(n, 3, generator=generator)

    return DrawnSource("site", 3, draw, about=changes, n_tokens=n_tokens, seed=seed)


def rows(of, batch_size, start, stop):
    return torch.cat([batch.acts["site"] for batch in of.batches(batch_size, start=start, stop=stop)])


def test_a_source_says_what_it_gives():
    of = source()
    assert isinstance(of, ActivationSource)
    assert (of.sites, of.widths, of.n_tokens) == (("site",), {"site": 3}, 25)
    assert of.fingerprint == source().fingerprint
    assert len({of.fingerprint, source(seed=1).fingerprint, source(26).fingerprint, source(law=2).fingerprint}) == 4


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_batch_is_the_same_wherever_one_starts_and_whatever_its_size(prefetch):
    of = DrawnSource("site", 3, lambda n, g: torch.randn(n, 3, generator=g), about=0, n_tokens=25, prefetch=prefetch)
    whole = rows(of, 1, 0, 60)
    assert torch.equal(rows(of, 4, 3, 9), whole[12:36])
    assert torch.equal(rows(of, 7, 0, 8), whole[:56])
    assert torch.equal(whole, rows(source(), 1, 0, 60))
    assert not torch.equal(whole, rows(source(seed=1), 1, 0, 60))


def test_after_the_last_row_the_same_rows_come_in_another_order():
    batches = list(source().batches(1, stop=50))
    first, second = ([int(b.document) for b in part] for part in (batches[:25], batches[25:]))
    assert sorted(first) == sorted(second) == list(range(25))
    assert first != second
    of = {int(b.document): b.acts["site"] for b in batches[:25]}
    assert len(torch.cat(list(of.values())).unique()) == 75
    assert all(torch.equal(b.acts["site"], of[int(b.document)]) for b in batches[25:])


def test_only_what_is_asked_for_is_drawn():
    drawn: list[int] = []
    next(iter(source(10**5, drawn=drawn).batches(4)))
    assert sum(drawn) <= 30


def test_a_dictionary_is_trained_on_it():
    job = Job("only", TopKConfig(n_latents=4, k=1).build(3, seed=0), Binding.at("site"), 0)
    (trained,) = fit([job], source(10_000), TrainingConfig(batch_size=50))
    assert trained.n_tokens == 10_000


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="0 rows"):
        source(0)
