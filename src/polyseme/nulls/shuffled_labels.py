"""Null: the labels of examples in random order."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from polyseme.core.seeds import make_generator
from polyseme.nulls.protocol import Null, Target


class ShuffledLabels(Null):
    """The labels of examples in random order: what a probe reads of them, it reads by learning noise."""

    targets: ClassVar[Target] = "labels"
    kept: ClassVar[str] = "the examples, and how many have each label"
    lost: ClassVar[str] = "which example has which label"

    kind: Literal["shuffled_labels"] = "shuffled_labels"

    def labels(self, labels: Shaped[Tensor, "example ..."]) -> Shaped[Tensor, "example ..."]:
        order = torch.randperm(len(labels), generator=make_generator(self.seed, self.kind))
        return labels[order.to(labels.device)]
