"""A dictionary's training step beside the product it cannot do without: x W_encᵀ alone, in the same run.

    python benchmarks/engine_step.py --d 256 --latents 2048 --batch 2048

Steps and products are interleaved and medians compared, so that a noisy machine slows both alike. A step is
`accumulate`, fused Adam and `after_step`; each dictionary is trained for a while first, for at the start ReLU-like
architectures are dense. Only the ratios within one run mean anything.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from polyseme.core.batch import Batch
from polyseme.dictionaries import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    SparseDictionary,
    TopKConfig,
)


def planted(rows: int, d: int, generator: torch.Generator) -> Tensor:
    """Sums of about 30 of 4d directions."""
    directions = torch.nn.functional.normalize(torch.randn(4 * d, d, generator=generator), dim=1)
    on = torch.rand(rows, 4 * d, generator=generator) < 30 / (4 * d)
    return (on * torch.rand(rows, 4 * d, generator=generator)) @ directions


def main() -> None:
    """Time every architecture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=60, help="steps of training before the first timing")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="architectures; all when left out")
    args = parser.parse_args()

    n, k = args.latents, args.k
    configs = {
        "topk": TopKConfig(n_latents=n, k=k),
        "batch_topk": BatchTopKConfig(n_latents=n, k=k),
        "matryoshka": MatryoshkaConfig(n_latents=n, k=k),
        "relu": ReLUConfig(n_latents=n),
        "jumprelu": JumpReLUConfig(n_latents=n),
        "gated": GatedConfig(n_latents=n),
    }
    # Stronger for the L1 penalties: their L0 falls slowly, and what is wanted here is a typical one.
    coefficients = {"relu": 8.0, "gated": 8.0, "jumprelu": 4.0}
    generator = torch.Generator().manual_seed(0)
    x = planted(args.batch, args.d, generator)
    ids = torch.zeros(args.batch, dtype=torch.int64)
    batch = Batch(x, x, ids, ids, ids)
    l0: dict[str, float] = {}

    def stepper(name: str, dictionary: SparseDictionary) -> Callable[[], None]:
        optimiser = torch.optim.Adam(dictionary.parameters().values(), lr=2e-3, fused=True)

        def step() -> None:
            stats = dictionary.accumulate(batch, progress=0.5, dead=None, coefficient=coefficients.get(name, 0.0))
            optimiser.step()
            dictionary.after_step()
            l0[name] = float(stats.l0)

        return step

    weight, out = torch.randn(n, args.d, generator=generator), torch.empty(args.batch, n)
    work: dict[str, Callable[[], object]] = {"x W_encᵀ": lambda: torch.mm(x, weight.t(), out=out)}
    for name in args.only or configs:
        dictionary = configs[name].build(args.d, seed=0)
        dictionary.initialise(batch)
        work[name] = stepper(name, dictionary)
        for _ in range(args.warmup):
            work[name]()

    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(args.rounds):
        for name, run in work.items():
            begun = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begun))

    limit = statistics.median(times["x W_encᵀ"])
    threads, shape = torch.get_num_threads(), f"d={args.d} n={n} batch={args.batch} k={k}"
    print(f"torch {torch.__version__}, {threads} threads, {shape}, {args.rounds} rounds")
    print(f"{'':12} {'median ms':>9} {'quartiles':>15} {'ratio':>6} {'L0':>6}")
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4)
        active = f"{l0[name]:6.1f}" if name in l0 else ""
        print(f"{name:12} {median:9.1f} {low:7.1f}{high:8.1f} {median / limit:6.2f} {active}")


if __name__ == "__main__":
    main()
