"""Why the noise of Universal AND is not independent, and how many neurons the construction needs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.tools.checks import Check, Line, fill, mean
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.universal_and.toy import BLOCK_ELEMENTS, UniversalAndToy, mask_blocks

COMMENT = "comments on Vaintrob, Mendel & Hänni 2024"
BOUNDS = "Adler & Shavit 2024, On the Complexity of Neural Computation in Superposition"
SCALING = "Hänni, Mendel, Vaintrob & Chan 2024, Mathematical Models of Computation in Superposition"
N_VECTORS, D_VECTORS, SUBSETS = 4096, 400, 200
_DRAWS: dict[str, Any] = {"within": 0.05, "paper": COMMENT, "n_unit": "draws"}
OVERLAPS = (
    Line("exponent of the sum of k overlaps, random sets", "0.5 ± 0.05", target=0.5, source="computed", **_DRAWS),
    Line("exponent of the sum of k overlaps, same-sign half", "1 ± 0.05", target=1, source="computed", **_DRAWS),
    Line("sum of the same-sign half a feature, over √(2/π)/√d", "1 ± 0.05", target=1, source="derived", **_DRAWS),
)
COSINES = tuple(
    Line(name, "{formula} ± 0.015", within=0.015, source="derived", paper=COMMENT)
    for name in (
        "cosine of gate vectors that share a variable",
        "cosine of disjoint gate vectors",
        "the same, sharing, after subtracting the mean",
        "the same, disjoint, after subtracting the mean",
    )
)
NEEDED = Line(
    "exponent of the neurons needed over the inputs, read-off error of all pairs held",
    "2/3 up to logarithms (0.667 ± 0.1)",
    target=2 / 3,
    within=0.1,
    source="published",
    paper=SCALING,
)
BOUNDED = (
    Line("neurons to compute m' features, at least", "Ω(√(m' log m'))", source="published", paper=BOUNDS),
    Line("parameters to compute m' features, at least", "Ω(m' log m')", source="published", paper=BOUNDS),
    Line("neurons that suffice for m' pairwise ANDs", "O(√m' · log m')", source="published", paper=BOUNDS),
)
STATED = (
    "an asymptotic bound without its constant, on networks that have to hold which pairs are computed; "
    "a universal layer holds none, its read-offs do"
)


def overlap_sums(
    overlaps: Float[Tensor, "instance n"], k: int, subsets: int, draws: Draws
) -> tuple[Float[Tensor, " instance"], Float[Tensor, " instance"]]:
    """Mean |sum| of k overlaps of a fixed draw: over random sets, and over sets of its positive half.

    Args:
        overlaps: f₀ · f_j of one draw.
        k: how many are summed, far fewer than there are.
        subsets: number of sets drawn of each kind.
        draws: random numbers for each instance.
    """
    n = overlaps.shape[-1]

    def size(among: Tensor) -> Tensor:
        chosen = (draws.uniform(subsets, k) * among[:, None, None]).long().flatten(1)
        return ordered.gather(-1, chosen).unflatten(1, (subsets, k)).sum(-1).abs().mean(-1)

    ordered = overlaps.sort(-1, descending=True).values
    positive = (overlaps > 0).sum(-1)
    return size(torch.full_like(positive, n)), size(positive)


def exponent(k: Sequence[int], values: Float[Tensor, "k instance"]) -> Float[np.ndarray, " instance"]:
    """Slope of log value over log k for each instance."""
    x = np.log(np.asarray(k, dtype=np.float64))
    y = values.double().log().numpy()
    x = x - x.mean()
    return (x[:, None] * (y - y.mean(0))).sum(0) / (x**2).sum()


def overlaps(config: UniversalAndToy, reporter: Reporter) -> list[Check]:  # noqa: ARG001
    """The sum of a target's overlaps with k others grows as √k for random sets, as k for those of one sign."""
    seeds = [derive_seed(seed, "universal and", "overlaps") for seed in config.seeds]
    draws = Draws(seeds)
    # f₀ · f_j given f₀ is the first coordinate of a random unit vector, whatever the direction of f₀.
    first = draws.normal(N_VECTORS)
    rest = torch.stack([torch.from_numpy(_chi_square(seed, N_VECTORS, D_VECTORS - 1)) for seed in seeds])
    overlap = (first.double() / (first.double().square() + rest).sqrt()).float()
    counts = [4, 8, 16, 32, 64]
    sums = [overlap_sums(overlap, k, SUBSETS, draws) for k in counts]
    random = exponent(counts, torch.stack([r for r, _ in sums]))
    signed_sums = torch.stack([s for _, s in sums])
    slope = (signed_sums[-1] / counts[-1] * math.sqrt(D_VECTORS) / math.sqrt(2 / math.pi)).numpy()
    about = f"{N_VECTORS} vectors in {D_VECTORS} dimensions, k = {counts[0]} to {counts[-1]}"
    found = (mean(random, about), mean(exponent(counts, signed_sums), about), mean(slope, about))
    return fill(OVERLAPS, found)


def _chi_square(seed: int, n: int, freedom: int) -> Float[np.ndarray, " n"]:
    return np.random.default_rng(derive_seed(seed, "chi square")).chisquare(freedom, n)


def gate_cosines(config: UniversalAndToy) -> dict[str, Float[Tensor, " instance"]]:
    """Mean cosine of gate vectors that share a variable and of disjoint ones, as they are and less their mean.

    The gates are (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3): of their pairs three are disjoint and twelve share.
    """
    first, second = torch.triu_indices(4, 4, offset=1)
    n = len(config.seeds)
    gram, total = torch.zeros(n, 6, 6, dtype=torch.float64), torch.zeros(n, 6, dtype=torch.float64)
    for block in mask_blocks(config, config.seeds, width=4):
        gates = (block[..., first] & block[..., second]).double()
        gram += gates.mT @ gates
        total += gates.sum(-2)
    centred = gram - total[:, :, None] * total[:, None, :] / config.n_neurons
    shared = (first[:, None] == first) | (first[:, None] == second) | (second[:, None] == first)
    shared = (shared | (second[:, None] == second)) & ~torch.eye(6, dtype=torch.bool)
    disjoint = ~shared & ~torch.eye(6, dtype=torch.bool)
    cosines: dict[str, Tensor] = {}
    for kind, matrix in (("raw", gram), ("centred", centred)):
        norm = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        cosine = matrix / (norm[:, :, None] * norm[:, None, :])
        cosines[f"{kind} sharing"] = cosine[:, shared].mean(-1)
        cosines[f"{kind} disjoint"] = cosine[:, disjoint].mean(-1)
    return cosines


def orthant(config: UniversalAndToy, reporter: Reporter) -> list[Check]:  # noqa: ARG001
    """The cosines of gate vectors, which lie in the positive orthant, and those after a bias offset."""
    q, cosines = config.q, gate_cosines(config)
    expected = {
        "raw sharing": ("q = {:.4f}", q),
        "raw disjoint": ("q² = {:.4f}", q * q),
        "centred sharing": ("q/(1 + q) = {:.4f}", q / (1 + q)),
        "centred disjoint": ("0", 0.0),
    }
    return [
        line.fill(mean(cosines[key]), target=target, formula=formula.format(target))
        for line, (key, (formula, target)) in zip(COSINES, expected.items(), strict=True)
    ]


def read_errors(m: int, d: int, qs: Sequence[float], s: int, rows: int, seed: int) -> Float[Tensor, " q"]:
    """Root mean square error of random pairs' read-offs where m inputs lie in superposition in d dimensions.

    Feature j comes in as a random unit vector f_j, and neuron i reads Σ_{j ∈ S_i} f_j · x − 1 off x = Σ_{j on} f_j. The
    read-offs are of pairs with both on and of pairs with one on, less their means. A pair that no neuron shares reads
    0, which is wrong where both are on; without such pairs, few neurons would be enough for the few pairs left.

    Args:
        m: number of inputs.
        d: number of dimensions, and of neurons.
        qs: probabilities that a feature is in a neuron's set; the networks share their random numbers.
        s: number of features on.
        rows: number of random inputs, each with a pair of either kind.
        seed: seed of features, sets and inputs.
    """
    draws = Draws([derive_seed(seed, "universal and", "scaling", m, d)])
    vectors = draws.normal(m, d)[0]
    vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    order = draws.uniform(rows, m)[0].argsort(-1)[:, : s + 1]
    seen = vectors[order[:, :s]].sum(1) @ vectors.T
    expected = torch.tensor([[1 + (s - 2) * q, (s - 1) * q] for q in qs])
    shared, summed = torch.zeros(2, len(qs), 2, rows)
    block = max(1, BLOCK_ELEMENTS // m)
    for start in range(0, d, block):
        uniform = draws.uniform(min(block, d - start), m)[0]
        for i, q in enumerate(qs):
            masks = uniform < q
            for j, second in enumerate((1, s)):
                gates = masks[:, order[:, 0]] & masks[:, order[:, second]]
                # Few neurons have both features of a row's pair, and no other is read.
                neuron, row = gates.nonzero(as_tuple=True)
                hidden = torch.relu((masks[neuron] * seen[row]).sum(-1) - 1)
                shared[i, j] += gates.sum(0)
                summed[i, j].index_add_(0, row, hidden)
    error = summed / shared.clamp(min=1) - expected[..., None]
    return error.square().mean((1, 2)).sqrt()


def neurons_needed(m: int, seed: int, *, error: float = 0.4, s: int = 2, rows: int = 256) -> float:
    """Number of neurons at which the root mean square read-off error is `error`, at the best of some q; NaN above m.

    Bracketed by doubling and halving, bisected to a factor 2^(1/8), and interpolated in log d.
    """

    def best(d: int) -> float:
        # A neuron's noise has variance sqm/d: q is counted in d/m.
        qs = [c * d / m for c in (0.25, 0.35, 0.5, 0.7) if c * d / m < 0.5]
        return float(read_errors(m, d, qs, s, rows, seed).min())

    high = min(m, round(2 * m ** (2 / 3)))
    low, errors = high, {high: best(high)}
    while errors[high] > error:
        if high == m:
            return math.nan
        low, high = high, min(m, 2 * high)
        errors[high] = best(high)
    while errors[low] <= error and low > 1:
        low, high = low // 2, low
        errors[low] = best(low)
    if errors[low] <= error:
        return math.nan
    while high / low > 2 ** (1 / 8) and high - low > 1:
        middle = round(math.sqrt(low * high))
        errors[middle] = best(middle)
        low, high = (middle, high) if errors[middle] > error else (low, middle)
    share = (errors[low] - error) / (errors[low] - errors[high])
    return math.exp(math.log(low) + share * math.log(high / low))


def scaling(config: UniversalAndToy, reporter: Reporter) -> list[Check]:
    """How the number of neurons for all pairs grows with the inputs, if these are in superposition themselves."""
    sizes = (512, 1024, 2048, 4096, 8192)
    seeds = config.seeds[:8]
    progress = reporter.task("neurons needed", len(sizes) * len(seeds), "searches")
    needed = torch.full((len(sizes), len(seeds)), math.nan)
    for i, m in enumerate(sizes):
        for j, seed in enumerate(seeds):
            needed[i, j] = neurons_needed(m, seed)
            progress.update(i * len(seeds) + j + 1)
    slopes = exponent(sizes, needed)
    table = ", ".join(f"{m}: {float(row.nanmean()):.0f}" for m, row in zip(sizes, needed, strict=True))
    note = (
        f"neurons by inputs: {table}; the root mean square over random pairs is fixed, not the error of "
        "the worst pair, for which the bound has its logarithms"
    )
    found = replace(mean(slopes, note), n=int((~np.isnan(slopes)).sum()))
    return [NEEDED.fill(found), *fill(BOUNDED, (), STATED)]
