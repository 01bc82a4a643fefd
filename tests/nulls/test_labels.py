"""Shuffled labels keep their counts and forget whose they were."""

import torch

from polyseme.nulls.shuffled_labels import ShuffledLabels


def test_each_label_stays_as_frequent_and_says_nothing_of_its_example() -> None:
    labels = torch.arange(3000) % 5
    drawn = ShuffledLabels(seed=1).labels(labels)
    assert torch.equal(drawn.bincount(), labels.bincount())
    # 600 of 3,000 agree by chance; five standard deviations.
    assert abs(int((drawn == labels).sum()) - 600) < 110


def test_every_order_is_as_likely() -> None:
    firsts = torch.stack([ShuffledLabels(seed=seed).labels(torch.arange(4)) for seed in range(1200)])
    for column in firsts.T:
        assert (column.bincount(minlength=4) - 300).abs().max() < 75  # five standard deviations


def test_labels_of_several_columns_stay_together() -> None:
    both = torch.stack([torch.arange(50), torch.arange(50) * 2], dim=1)
    drawn = ShuffledLabels().labels(both)
    assert torch.equal(drawn[:, 1], drawn[:, 0] * 2)
    assert not torch.equal(drawn, both)
