"""A sweep of toy models of superposition beside the batched loop that notebooks use, step by step in turns.

    python benchmarks/toy_sweep.py

The loop draws a mask and values apart, contracts by `einsum`, leaves the gradient to autograd and steps torch's default
AdamW. Ours is what `polyseme.zoo` trains with. Both in one process, medians of interleaved steps: only ratios count.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from workers import save_figures

from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.tied import tied_loss

SHAPES = ((100, 5, 2), (512, 6, 2), (40, 20, 5), (20, 200, 20), (8, 400, 30))
"""Networks, features, hidden dimensions."""


def notebook(instances: int, features: int, hidden: int, batch: int) -> Callable[[], None]:
    """A step of the usual loop."""
    W = torch.nn.Parameter(torch.nn.init.xavier_normal_(torch.empty(instances, features, hidden)))
    b = torch.nn.Parameter(torch.zeros(instances, features))
    density = torch.linspace(0.05, 1, instances)[None, :, None]
    importance = 0.9 ** torch.arange(features)
    optimiser = torch.optim.AdamW([W, b], lr=1e-3)

    def step() -> None:
        values = torch.rand(batch, instances, features)
        x = torch.where(torch.rand(batch, instances, features) <= density, values, torch.zeros(()))
        h = torch.einsum("bif,ifh->bih", x, W)
        out = torch.relu(torch.einsum("bih,ifh->bif", h, W) + b)
        loss = (importance * (x - out) ** 2).mean((0, 2)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def ours(instances: int, features: int, hidden: int, batch: int) -> Callable[[], None]:
    """A step of the stack."""
    W = (0.1 * torch.randn(instances, hidden, features)).requires_grad_()
    b = torch.zeros(instances, features, requires_grad=True)
    draws, density = Draws(list(range(instances)), "benchmark"), torch.linspace(0.05, 1, instances)
    importance = (0.9 ** torch.arange(features)).repeat(instances, 1)
    optimiser = torch.optim.AdamW([W, b], lr=1e-3, fused=True)

    def step() -> None:
        x = draws.sparse_uniform(density, batch, features)
        losses = tied_loss(W, b, x, of_row=1 / batch, of_feature=importance)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()

    return step


def main() -> None:
    """Time both on every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    rows: list[dict[str, object]] = []
    print(f"{'networks × features × hidden':30} {'loop ms':>9} {'ours ms':>9} {'ratio':>6}")
    for shape in SHAPES:
        steps = (notebook(*shape, args.batch), ours(*shape, args.batch))
        taken: tuple[list[float], list[float]] = ([], [])
        for round_ in range(args.rounds + 3):
            for step, ms in zip(steps, taken, strict=True):
                begun = time.perf_counter()
                step()
                if round_ >= 3:
                    ms.append(1e3 * (time.perf_counter() - begun))
        loop, own = (statistics.median(ms) for ms in taken)
        rows.append({"shape": shape, "loop": taken[0], "ours": taken[1]})
        print(f"{' × '.join(map(str, shape)):30} {loop:9.2f} {own:9.2f} {loop / own:6.2f}", flush=True)
    about = {"batch": args.batch, "threads": args.threads, "torch": torch.__version__}
    save_figures(args.out, about, rows)


if __name__ == "__main__":
    main()
