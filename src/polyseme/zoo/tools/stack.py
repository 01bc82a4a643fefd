"""Many small networks trained at once: each parameter has a leading axis of instances, and one pass serves them all.

Instances never mix: the loss of each depends on its own slice alone, the optimiser works element by element, and each
draws its data from its own generator, so that an instance's result does not depend on what it was batched with.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Config, Count
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.store.checkpoints import latest_checkpoint, save_checkpoint
from polyseme.zoo.tools.toy import Draw, TrainedToy, Truth

Parameters = Mapping[str, Tensor]
Setting = Mapping[str, Any]
M = TypeVar("M", bound=nn.Module)
BLOCK_BYTES = 512 * 1024
"""Size of one array of a block that is worked on in cache: three of them fill a second-level cache of usual size."""
_Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimiserConfig(Config):
    """AdamW and its schedule."""

    steps: Count = 10_000
    lr: float = Field(default=1e-3, ge=0, le=1e6)
    weight_decay: float = Field(default=0.01, ge=0, le=1e3)
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    warmup: int = Field(default=0, ge=0, le=10**12)
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls after the warm-up: not at all, or to 0 at the last step."""

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        falling = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}
        return self.lr * falling[self.schedule]


class Grid:
    """What sets the instances of a stack apart: every combination of values with every seed, seeds varying fastest.

    Args:
        seeds: as in the config.
        varied: the values of each setting by its name.
    """

    def __init__(self, seeds: Sequence[int], **varied: Sequence[Any]):
        self.settings: list[Setting] = []
        self.seeds: list[int] = []
        for *values, seed in itertools.product(*varied.values(), seeds):
            self.settings.append(dict(zip(varied, values, strict=True)))
            self.seeds.append(seed)

    def __len__(self) -> int:
        return len(self.seeds)

    def derived(self, name: str) -> list[int]:
        """A seed for each instance, of its config's seed, this name and its setting."""
        pairs = zip(self.seeds, self.settings, strict=True)
        return [derive_seed(seed, name, *map(str, setting.values())) for seed, setting in pairs]

    def values(self, name: str) -> Float[Tensor, " instance"]:
        """The value of a setting in each instance."""
        return torch.tensor([float(setting[name]) for setting in self.settings])


class Draws:
    """Random numbers for a stack: instance i's are a pure function of its own seed.

    Args:
        seeds: one for each instance.
        names: the purpose, as in `derive_seed`.
    """

    def __init__(self, seeds: Sequence[int], *names: str):
        self._generators = [make_generator(seed, *names) for seed in seeds]

    @classmethod
    def one(cls, generator: torch.Generator) -> "Draws":
        """Random numbers for a single instance, seeded by the next number of a generator."""
        return cls([int(torch.randint(2**62, (), generator=generator))])

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, *shape: int) -> Float[Tensor, "instance ..."]:
        """U[0, 1)."""
        return self._drawn(torch.rand, shape)

    def normal(self, *shape: int) -> Float[Tensor, "instance ..."]:
        """N(0, 1)."""
        return self._drawn(torch.randn, shape)

    def _drawn(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Float[Tensor, "instance ..."]:
        out = torch.empty(len(self), *shape, dtype=torch.float32, device="cpu")
        for row, generator in zip(out, self._generators, strict=True):
            draw(shape, generator=generator, out=row)
        return out

    def sparse_uniform(self, p: Float[Tensor, " instance"], *shape: int) -> Float[Tensor, "instance ..."]:
        """U[0, 1) with probability p, else 0: of one uniform draw u, u < p is the mask and u / p the value."""
        u = self.uniform(*shape)
        together = max(1, BLOCK_BYTES * len(u) // max(1, u.nbytes))
        for some, density in zip(u.split(together), p.split(together), strict=True):  # in place and in cache
            some.div_(-density.reshape(-1, *(1 for _ in shape)))
            torch.threshold_(some, -1, 0).abs_()
        return u


@dataclass(frozen=True)
class History:
    """Loss of every instance along the training.

    Attributes:
        steps: the steps recorded.
        loss: mean over the steps since the record before, `[record, instance]`; NaN for an instance that diverged.
    """

    steps: list[int]
    loss: Float[Tensor, "record instance"]

    @property
    def final(self) -> Float[Tensor, " instance"]:
        """The last record."""
        return self.loss[-1]


@dataclass(frozen=True)
class Stack:
    """Networks of one kind after their training.

    Attributes:
        parameters: name in the module to its tensor, with a leading axis of instances.
        loss: of each instance at the end.
        grid: the setting and the seed of each instance.
        ceiling: a loss above this means that an instance did not train; one for all, or `[instance]`.
    """

    parameters: Parameters
    loss: Float[Tensor, " instance"]
    grid: Grid
    ceiling: Float[Tensor, " instance"] | float

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def trained(self) -> Bool[Tensor, " instance"]:
        """Whether the loss is at most the ceiling; False for an instance that diverged."""
        return self.loss <= self.ceiling

    @property
    def untrained(self) -> str:
        """Why nothing can be said of these networks; empty where all of them trained."""
        failed = int((~self.trained).sum())
        return f"{failed} of {len(self)} networks did not train" if failed else ""

    def where(self, **setting: Any) -> list[int]:
        """The instances that have these values in their setting."""
        return [i for i, of in enumerate(self.grid.settings) if setting.items() <= of.items()]

    def into(self, module: M, i: int) -> M:
        """A module of that kind with the parameters of instance i."""
        module.load_state_dict({name: tensor[i] for name, tensor in self.parameters.items()})
        return module

    def toys(
        self, build: Callable[[], nn.Module], truth: Callable[[int], Truth], draw: Callable[[int], Draw]
    ) -> list[TrainedToy]:
        """The networks with what is known of each.

        Args:
            build: makes an untrained network.
            truth: what is known of instance i.
            draw: what draws the data of instance i.
        """
        ceilings = torch.as_tensor(self.ceiling, dtype=torch.float64).expand(len(self)).tolist()
        losses = self.loss.tolist()
        return [
            TrainedToy(self.into(build(), i), truth(i), draw(i), seed, setting, losses[i], ceilings[i])
            for i, (seed, setting) in enumerate(zip(self.grid.seeds, self.grid.settings, strict=True))
        ]


def train_stack(
    parameters: Parameters,
    loss: Callable[[int], Float[Tensor, " instance"]],
    config: OptimiserConfig,
    *,
    reporter: Reporter,
    name: str = "networks",
    record_every: int = 200,
    on_record: Callable[[int], None] | None = None,
    checkpoints: Path | None = None,
) -> History:
    """Train every instance of a stack by AdamW; the parameters are changed in place.

    With `checkpoints`, an interrupted training resumes from its last record and ends in the same bits, provided that
    `loss` draws its data from the step alone (or draws none).

    Args:
        parameters: name to a leaf tensor with a leading axis of instances.
        loss: the loss of each instance at a step, computed from `parameters`; it draws its own data.
        config: the optimiser.
        reporter: receives progress updates.
        name: label of the progress line.
        record_every: steps between two records of the history.
        on_record: called with the step after each new record, for measures along the training.
        checkpoints: a folder for this training alone; None keeps nothing.
    """
    for tensor in parameters.values():
        tensor.requires_grad_(True)
    optimiser = torch.optim.AdamW(
        list(parameters.values()), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    progress = reporter.task(name, config.steps, "steps")
    steps, records = _resume(checkpoints, parameters, optimiser, reporter)
    summed, since = torch.zeros(()), 0
    for step in range(steps[-1] if steps else 0, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.lr_at(step)
        losses = loss(step)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        summed, since = summed + losses.detach(), since + 1
        if (step + 1) % record_every == 0 or step + 1 == config.steps:
            steps.append(step + 1)
            records.append(summed / since)
            summed, since = torch.zeros(()), 0
            progress.update(step + 1, note=f"loss {records[-1].nanmean():.3g}")
            if on_record is not None:
                on_record(step + 1)
            if checkpoints is not None:
                _save(checkpoints, parameters, optimiser, steps, records)
    for tensor in parameters.values():
        tensor.requires_grad_(False)
    return History(steps, torch.stack(records))


def _save(
    folder: Path, parameters: Parameters, optimiser: torch.optim.Optimizer, steps: list[int], records: list[Tensor]
) -> None:
    tensors = {f"parameters.{name}": tensor.detach() for name, tensor in parameters.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{name}": tensor for name, tensor in state.items()}
    save_checkpoint(folder, steps[-1], tensors | {"records": torch.stack(records)}, {"steps": steps})


def _resume(
    folder: Path | None, parameters: Parameters, optimiser: torch.optim.Optimizer, reporter: Reporter
) -> tuple[list[int], list[Tensor]]:
    """Steps and losses recorded before an interruption, none for a new training; restores the rest of the state."""
    found = None if folder is None else latest_checkpoint(folder, reporter=reporter)
    if found is None:
        return [], []
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(found.tensors[f"parameters.{name}"])
    saved: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(parameters))}
    for name, tensor in found.tensors.items():
        if name.startswith("optimiser."):
            _, i, key = name.split(".")
            saved[int(i)][key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": saved})
    return list(found.state["steps"]), list(found.tensors["records"])
