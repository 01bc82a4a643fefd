"""A dictionary against truth, from vectors on: reconstruction beside recovery, of the same rows."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.core.records import MetricRecord
from polyseme.dictionaries import Dictionary
from polyseme.evaluation.metrics import METRICS
from polyseme.evaluation.recovery.answers import Answers, FeatureTruth, Values
from polyseme.evaluation.recovery.records import Scope, recovery
from polyseme.kernels.shield import shielded


@shielded
@torch.no_grad()
def scored(
    dictionary: Dictionary,
    truth: FeatureTruth,
    batches: Iterable[tuple[Float[Tensor, "_ _"], Values]],
    *,
    seed: int = 0,
    scope: Scope | None = None,
    hedging: bool = True,
) -> list[MetricRecord]:
    """FVU and every metric of `recovery`.

    Args:
        dictionary: an autoencoder of the vectors.
        truth: the features.
        batches: vectors, and the values of every feature in them.
        seed: seed of chance levels.
        scope: scope of the records.
        hedging: as in `recovery`.

    Raises:
        InputError: as in `recovery`.
    """
    error, squares, n = 0.0, 0.0, 0
    total = torch.zeros(truth.directions.shape[1], dtype=torch.float64)
    answers: list[tuple[Values, Values]] = []
    for x, values in batches:
        z, exact = dictionary.encode(x), wide(x)
        error += float((wide(dictionary.decode(z)) - exact).square().sum())
        squares += float(exact.square().sum())
        total += exact.sum(0).cpu()
        n += len(x)
        answers.append((z, values))
    joined = Answers.of(answers)
    variance = squares - float(total.square().sum()) / n
    record = METRICS["fvu"].record(error / variance, None, n=n, n_unit="rows", scope=scope)
    write, read = dictionary.write_directions(), dictionary.read_directions()
    return [record, *recovery(write, truth, joined, read=read, seed=seed, scope=scope, hedging=hedging)]
