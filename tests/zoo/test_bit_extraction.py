"""Bit extraction: exact look-up at every size, and labels that stay hidden until the last layer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.core.seeds import make_generator
from polyseme.zoo.bit_extraction.toy import (
    PADS,
    BitExtractionToy,
    codes,
    hidden,
    inputs,
    labels,
    look_up,
    probed,
    probes,
    wired,
    wiring,
)

SMALL = BitExtractionToy(row_bits=3, column_bits=4, seeds=(0, 1))


def tent(a: np.ndarray) -> np.ndarray:
    return np.minimum(2 * a, 2 - 2 * a)


def test_a_code_unrolls_into_its_digits():
    digits = torch.rand(20, 34, generator=torch.Generator().manual_seed(0)) < 0.5
    a = codes(digits)
    for digit in digits.T.numpy():
        np.testing.assert_array_equal(a > 0.5, digit)
        a = tent(a)
    np.testing.assert_array_equal(a, 0.5)


@settings(deadline=None, max_examples=12)
@given(row_bits=st.integers(1, 5), column_bits=st.integers(1, 5), seed=st.integers(0, 2**20))
def test_every_label_is_right_at_every_size(row_bits: int, column_bits: int, seed: int):
    config = BitExtractionToy(row_bits=row_bits, column_bits=column_bits, seeds=(seed,))
    assert [c.outcome for c in look_up(config, Silent())] == ["pass"] * 3


def test_another_table_is_not_looked_up():
    answers = wired(SMALL, 0)(inputs(SMALL))[:, 0] > 0
    assert (answers == labels(SMALL, 0)).all()
    assert 0.3 < (answers == labels(SMALL, 1)).double().mean() < 0.7


def test_each_column_ends_after_its_own_tents():
    seen = hidden(wired(SMALL, 0), inputs(SMALL))
    layer = seen[-2]
    a = (layer[:, 0] + layer[:, 1] - 4 * layer[:, 2]).numpy()
    pads = torch.rand(SMALL.n_rows, PADS, generator=make_generator(0, "pads")) < 0.5
    code = codes(torch.cat([pads, labels(SMALL, 0).reshape(SMALL.n_rows, -1)], dim=1))
    for row in range(SMALL.n_rows):
        expected = code[row]
        for column in range(SMALL.n_columns):
            assert a[row * SMALL.n_columns + column] == expected
            expected = tent(expected)


def test_no_layer_is_wider_than_six():
    largest = BitExtractionToy(row_bits=8, column_bits=5)
    widths = [len(layer) for layer in wiring(largest, np.zeros(largest.n_rows))]
    assert max(widths) == 6
    assert len(widths) == 256 + 32 + 2


def test_the_label_is_readable_in_the_last_layer_alone():
    accuracy, null = probed(SMALL)
    assert accuracy[-1] > 0.9
    assert accuracy[:-1].max() < 0.75
    assert null.mean() == pytest.approx(0.5, abs=0.01)
    assert {c.outcome for c in probes(SMALL, Silent())} == {"pass"}


def test_a_table_too_small_to_probe_is_not_measured():
    tiny = BitExtractionToy(row_bits=2, column_bits=2, seeds=(0,))
    assert {c.outcome for c in probes(tiny, Silent())} == {"not_measured"}


def test_toys_read_where_they_say():
    toy, other = SMALL.train(Silent())
    assert toy.trained
    assert toy.loss == 0
    vectors, sample = toy.activations(64, torch.Generator().manual_seed(0))
    assert vectors.shape[1] <= 6
    assert sample.features.shape == (64, SMALL.n_bits + 1)
    right = (toy.module(sample.inputs)[:, 0] > 0).double() == sample.features[:, -1]
    assert right.all()
    assert not torch.equal(labels(SMALL, toy.seed), labels(SMALL, other.seed))


@pytest.mark.parametrize("bad", [{"row_bits": 0}, {"row_bits": 9}, {"column_bits": 6}, {"seeds": ()}])
def test_what_cannot_be_is_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        BitExtractionToy.model_validate(bad)
