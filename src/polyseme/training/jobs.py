"""One dictionary in training: what to train, what is remembered between steps, and what comes out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from polyseme.core.batch import Batch
from polyseme.core.binding import Binding, BindingLike, bound
from polyseme.core.config import Record
from polyseme.core.precision import wide
from polyseme.core.records import Number
from polyseme.core.seeds import make_generator
from polyseme.dictionaries.protocol import Trainable
from polyseme.training.controller import L0Controller
from polyseme.training.schedules import learning_rate, ramp

# A dictionary this many times worse than predicting the mean, or than it began, has diverged.
_HOPELESS_FVU = 10.0
_FVU_MEMORY = 0.95
_REVIVED_EVERY = 10
"""Steps from one revival to the next."""
MOMENTS = 3
"""Number of moments of a training at which its dictionaries are looked at (`Plan.doublings`)."""


@dataclass(init=False)
class Job:
    """A dictionary to train.

    Attributes:
        name: unique among the jobs of one fit; names its history and checkpoints.
        dictionary: built, not initialised; trained in place.
        binding: what it reads and what it writes, by the names of the activation source; a name by itself for an
            autoencoder.
        seed: of its initialisation, kept for the record. Jobs of one fit see the same batches in the same order: seeds
            differ in how they start, not in what they see.
        target_l0: instead of the config's, for this job alone.
    """

    name: str
    dictionary: Trainable
    binding: Binding[str]
    seed: int
    target_l0: float | None = None

    def __init__(
        self, name: str, dictionary: Trainable, binding: BindingLike, seed: int, target_l0: float | None = None
    ):
        self.name, self.dictionary, self.seed, self.target_l0 = name, dictionary, seed, target_l0
        self.binding = bound(binding, f"job {name}")


class HistoryPoint(Record):
    """One line of a training's history."""

    step: int
    tokens: int
    loss: Number
    """Loss of this batch; 1 is what predicting the mean costs."""
    fvu: Number
    """Running over about 20 batches, about the batches' own means; the study measures it on held-out documents."""
    l0: Number
    """Running over two or three batches."""
    dead: Number
    """Share of latents that have not fired for `dead_after` tokens, nor were revived since."""
    lr: Number
    coefficient: Number
    """Coefficient of the sparsity penalty, warm-up included; 0 for architectures without one."""


@dataclass(frozen=True)
class TrainedJob:
    """A trained dictionary and how it went; the figures are running ones over training batches.

    Attributes:
        job: the job, its dictionary trained.
        history: about a hundred points, the last step's among them.
        n_tokens: trained on.
    """

    job: Job
    history: tuple[HistoryPoint, ...]
    n_tokens: int

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def dictionary(self) -> Trainable:
        return self.job.dictionary

    @property
    def final(self) -> HistoryPoint:
        """The last step's figures."""
        return self.history[-1]


@dataclass(frozen=True)
class Plan:
    """The numbers of a fit that are the same at every step.

    Attributes:
        n_steps, batch_size: how much.
        warmup, decay, sparsity_warmup: in steps.
        dead_after: in tokens.
        lr: None: the job's own default.
        betas, clip: Adam's memories; the largest gradient norm.
        revive: largest share of the latents that are revived at a time.
        revived: the first step after which latents may be, and the step before which they no longer are.
    """

    n_steps: int
    batch_size: int
    warmup: int
    decay: int
    sparsity_warmup: int
    dead_after: int
    betas: tuple[float, float]
    clip: float | None
    revive: float
    revived: tuple[int, int]

    def revives(self, step: int) -> bool:
        """True at steps after which dead latents are revived."""
        first, end = self.revived
        return self.revive > 0 and first <= step < end and (step + 1) % _REVIVED_EVERY == 0

    @property
    def doublings(self) -> tuple[int, ...]:
        """A quarter, half and all of the steps before the learning rate falls, of those that are on its plateau.

        Two states of these differ in how long they were trained and in nothing else of the schedule. Empty where fewer
        than two are on the plateau: the rate falls or rises for too long.
        """
        end, start = self.n_steps - self.decay, max(1, self.warmup, self.sparsity_warmup)
        steps = tuple(step for step in (end // 2**i for i in reversed(range(MOMENTS))) if step >= start)
        return steps if len(steps) > 1 else ()

    def samples(self, step: int) -> bool:
        """True at about a hundred steps and the last."""
        every = max(1, self.n_steps // 100)
        return (step + 1) % every == 0 or step + 1 == self.n_steps


class NotFinite(Exception):  # noqa: N818 - a signal to `fit`, which knows the batch and the checkpoint
    """The step was not taken; the weights are those before it."""


@final
@dataclass
class Trainee:
    """A job with its optimiser and counters: the state that a checkpoint holds."""

    job: Job
    plan: Plan
    peak_lr: float
    controller: L0Controller
    optimiser: torch.optim.Adam = field(init=False)
    idle: Tensor = field(init=False)
    """Tokens since each latent last fired or was revived, int64."""
    history: list[HistoryPoint] = field(default_factory=list[HistoryPoint])
    sse: float = 0.0
    total: float = 0.0
    """Running sums behind the running FVU."""
    worst: float = 1.0
    """FVU of the first batch, at least 1: before training, a dense dictionary overshoots by its overcompleteness."""

    def __post_init__(self) -> None:
        parameters = self.job.dictionary.parameters()
        # Adam moves every number by about lr a step, so a unit row of width d by lr √d. A latent's scalars (bias,
        # threshold) are of the size of its pre-activations: at a rate √d as large they keep up with its row. Without
        # it thresholds and gates take longer to open than a short training lasts.
        scalars = {name for name, parameter in parameters.items() if parameter.dim() == 1 and name != "b_dec"}
        groups = [
            {"params": [p for name, p in parameters.items() if name not in scalars], "factor": 1.0},
            {
                "params": [p for name, p in parameters.items() if name in scalars],
                "factor": self.job.dictionary.d_in**0.5,
            },
        ]
        self.device = parameters["b_dec"].device
        self.optimiser = torch.optim.Adam(groups, lr=self.peak_lr, betas=self.plan.betas, fused=True)
        # Made here, what lasts lies side by side; made in the first step, as Adam would, it lies among what that step
        # lets go, and later steps find only holes (`docs/decisions/0018-what-a-step-holds.md`).
        for parameter in parameters.values():
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[parameter] = {"step": parameter.new_zeros((), dtype=torch.float32), **moments}
            parameter.grad = torch.zeros_like(parameter)
        self.idle = torch.zeros(self.job.dictionary.n_latents, dtype=torch.int64, device=self.device)

    @property
    def fvu(self) -> float:
        return _ratio(self.sse, self.total)

    def step(self, batch: Batch, step: int) -> None:
        """One update.

        Raises:
            NotFinite: loss or gradient are not finite, or the reconstruction is hopeless; nothing was updated.
        """
        dictionary, plan = self.job.dictionary, self.plan
        dead = self.idle >= plan.dead_after
        n_dead = int(dead.sum())
        coefficient = 0.0
        if dictionary.has_coefficient:
            coefficient = self.controller.coefficient * ramp(step, plan.sparsity_warmup)
        stats = dictionary.accumulate(
            batch, progress=step / plan.n_steps, dead=dead if n_dead else None, coefficient=coefficient
        )
        loss, l0, sse, total, norm = torch.stack(
            [wide(value) for value in (stats.loss, stats.l0, stats.sse, stats.total, self._gradient_norm())]
        ).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite("a loss or gradient that is not finite")
        sse = _FVU_MEMORY * self.sse + (1 - _FVU_MEMORY) * sse
        total = _FVU_MEMORY * self.total + (1 - _FVU_MEMORY) * total
        fvu, worst = _ratio(sse, total), self.worst
        if total > 0:
            worst = worst if step else max(1.0, fvu)
            if fvu > _HOPELESS_FVU * worst:
                raise NotFinite(f"a reconstruction {fvu:.0f} times worse than predicting the mean")
        self.sse, self.total, self.worst = sse, total, worst
        if plan.clip is not None and norm > plan.clip:
            for gradient in self._gradients():
                gradient.mul_(plan.clip / norm)
        lr = learning_rate(step, plan.n_steps, peak=self.peak_lr, warmup=plan.warmup, decay=plan.decay)
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimiser.step()
        dictionary.after_step()
        self.idle += stats.n_rows
        self.idle[stats.fired > 0] = 0
        acts = dictionary.has_coefficient and step >= plan.sparsity_warmup
        share = self.controller.observe(l0, act=acts, rate=lr / self.peak_lr)
        if share:
            dictionary.move_thresholds(share, stats)
        if plan.revives(step):
            self._revive(batch, step)
        self._sample(step, loss, n_dead, lr, coefficient)

    def _revive(self, batch: Batch, step: int) -> None:
        """Make some of the dead latents again, those that are dead longest first.

        They begin without momentum and with the mean squared gradient of the live ones: Adam's bias correction is long
        past, so that from a squared gradient of zero their first steps would be several times too long.
        """
        dictionary, live = self.job.dictionary, self.idle < self.plan.dead_after
        most = max(1, int(self.plan.revive * dictionary.n_latents))
        n = min(most, len(live) - int(live.sum()))
        if n == 0:
            return
        latents = self.idle.sort(descending=True, stable=True).indices[:n]
        generator = make_generator(self.job.seed, "revive", step)
        revived = dictionary.revive(batch, latents, live=live, progress=step / self.plan.n_steps, generator=generator)
        self.idle[revived] = 0
        weights = live / live.sum().clamp(min=1)
        for name, parameter in dictionary.parameters().items():
            if name != "b_dec":
                moments = self.optimiser.state[parameter]
                squares = moments["exp_avg_sq"]
                moments["exp_avg"][revived] = 0
                squares[revived] = (weights.to(squares) @ squares).mean()

    def skip(self, step: int) -> None:
        """The step of a batch of which nothing is trained on: nothing changes."""
        coefficient = self.controller.coefficient if self.job.dictionary.has_coefficient else 0.0
        lr = learning_rate(step, self.plan.n_steps, peak=self.peak_lr, warmup=self.plan.warmup, decay=self.plan.decay)
        n_dead = int((self.idle >= self.plan.dead_after).sum())
        self._sample(step, math.nan, n_dead, lr, coefficient * ramp(step, self.plan.sparsity_warmup))

    def _sample(self, step: int, loss: float, n_dead: int, lr: float, coefficient: float) -> None:
        """Add a point to the history, at the steps that have one."""
        if self.plan.samples(step):
            point = HistoryPoint(
                step=step + 1,
                tokens=(step + 1) * self.plan.batch_size,
                loss=loss,
                fvu=self.fvu,
                l0=self.controller.l0,
                dead=n_dead / self.job.dictionary.n_latents,
                lr=lr,
                coefficient=coefficient,
            )
            self.history.append(point)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.job.dictionary.parameters().values() if p.grad is not None]

    def _gradient_norm(self) -> Tensor:
        # A dot product reads a gradient once; torch's own norm takes twice as long over it.
        return torch.stack([torch.dot(g.view(-1), g.view(-1)) for g in self._gradients()]).sum().sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs but `state`."""
        out = {f"dictionary.{name}": tensor for name, tensor in self.job.dictionary.tensors().items()}
        out["idle"] = self.idle
        for name, parameter in self.job.dictionary.parameters().items():
            for key, value in self.optimiser.state[parameter].items():
                out[f"adam.{name}.{key}"] = value
        return out

    def state(self) -> dict[str, Any]:
        """The JSON part."""
        return {
            "controller": self.controller.state(),
            "history": [point.model_dump(mode="json") for point in self.history],
            "sse": self.sse,
            "total": self.total,
            "worst": self.worst,
        }

    def restoring(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> Callable[[], None]:
        """What puts back what `tensors` and `state` gave; nothing is changed before all of it was looked at.

        Raises:
            KeyError, TypeError, ValueError: they are not of this job.
        """
        targets = self.tensors()
        if unknown := sorted(tensors.keys() - targets.keys()):
            raise KeyError(f"tensors {unknown}")
        for name, target in targets.items():
            saved = tensors[name]
            if saved.shape != target.shape or saved.dtype != target.dtype:
                raise ValueError(
                    f"tensor {name} is {saved.dtype} {list(saved.shape)}, not {target.dtype} {list(target.shape)}"
                )
            if not bool(torch.isfinite(saved).all()):
                raise ValueError(f"tensor {name} holds NaN or infinities")
        controller = self.controller.restored(state["controller"])
        history = [HistoryPoint.model_validate(point) for point in state["history"]]
        sse, total, worst = (float(state[name]) for name in ("sse", "total", "worst"))

        def restore() -> None:
            with torch.no_grad():
                for name, target in targets.items():
                    target.copy_(tensors[name])
            self.controller, self.history = controller, history
            self.sse, self.total, self.worst = sse, total, worst

        return restore


def _ratio(sse: float, total: float) -> float:
    return sse / total if total > 0 else math.nan
