"""The one training loop: many dictionaries, one pass over the data, exact resumption.

At step t every job is given the same batch, makes its own gradient, and takes its own Adam step; nothing is shared but
the data, so that a job trained among others is bit for bit the job trained alone. The state between two steps (weights,
optimiser, counters, controllers, t itself) is a checkpoint; batches are a pure function of t; so a training that was
killed and resumed ends in the same bits as one that was not, on the same machine with the same number of threads.
"""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor

from polyseme.activations import ActivationSource
from polyseme.activations.massive import Spread
from polyseme.core.batch import Batch, SiteBatch
from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, Diverged, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.kernels.shield import shielded
from polyseme.kernels.workspace import reuse_buffers
from polyseme.store.checkpoints import latest_checkpoint, save_checkpoint
from polyseme.training.config import TrainingConfig
from polyseme.training.controller import L0Controller
from polyseme.training.interrupts import Signals
from polyseme.training.jobs import Job, NotFinite, Plan, TrainedJob, Trainee
from polyseme.training.leaving_out import LeavingOut, leaving_out, massive_message, measured_spreads
from polyseme.training.preflight import plan_of, target_of
from polyseme.training.schedules import auto_learning_rate

_STATE_VERSION = 4
"""2 left out what BatchTopK takes from one step to the next; 3 revived no latents, and steered L0 by the coefficient
alone."""
_SECONDS_BETWEEN_UPDATES = 0.2


@shielded
def fit(
    jobs: Sequence[Job],
    source: ActivationSource,
    config: TrainingConfig,
    *,
    checkpoints: Path | None = None,
    spreads: Mapping[str, Spread] | None = None,
    at_doubling: Callable[[int], object] | None = None,
    reporter: Reporter | None = None,
) -> list[TrainedJob]:
    """Train every job's dictionary in place, in one pass over the source.

    Args:
        jobs: what to train; names are unique.
        source: where batches come from.
        config: how.
        checkpoints: folder to save to and to resume from; None: neither. The last state is left there; what belongs to
            a finished training may be deleted.
        spreads: of each site's vectors, which say what `config.leave_out` leaves out. None: measured first, on the
            first vectors of the training, and massive ones are reported (as a warning where there is no reporter).
        at_doubling: called with the number of tokens after each of `Plan.doublings`, to keep a copy of the dictionaries
            then. What it did is there whenever a training is resumed later than that; it may be called twice for one.
        reporter: receives progress, and a message when training resumes.

    Returns:
        The jobs in their order, with their histories.

    Raises:
        InputError: the jobs do not fit the source or the config, a dictionary was trained before, or the checkpoints
            are another training's.
        DamagedArtifact: the newest whole checkpoint does not hold what it should.
        Diverged: a loss or gradient is not finite, or a reconstruction is hopeless; the last good checkpoint stays.
    """
    plan = plan_of(jobs, source, config)
    if spreads is None:
        spreads = measured_spreads(jobs, source, plan, reporter or Silent())
        for text in filter(None, (massive_message(site, spread, config.leave_out) for site, spread in spreads.items())):
            if reporter is None:
                warnings.warn(text, stacklevel=2)
            else:
                reporter.message(text)
    leaving = leaving_out(jobs, config, spreads)
    reporter = reporter or Silent()
    identity = _identity(jobs, source, config, plan, leaving)
    run = _Fit([_trainee(job, plan, config) for job in jobs], plan, checkpoints, identity, leaving, at_doubling)
    start = run.resume(reporter)
    if start == 0:
        _check_untrained(jobs)
    if start < plan.n_steps:
        with reuse_buffers():
            run.train(source, start, config.checkpoint_seconds, reporter)
    for trainee in run.trainees:
        if trainee.controller.misses:
            target, l0 = trainee.controller.target, trainee.controller.l0
            reporter.message(
                f"job {trainee.job.name}: L0 is {l0:.3g} at the end of the training, and the target is {target:.3g}: "
                "train longer, or set another target"
            )
    return [TrainedJob(t.job, tuple(t.history), plan.n_steps * plan.batch_size) for t in run.trainees]


def _check_untrained(jobs: Sequence[Job]) -> None:
    """What an interrupted training leaves in memory may be half a step; a new training does not begin with it."""
    for job in jobs:
        if job.dictionary.is_initialised:
            raise InputError(
                "the dictionary was trained before, and there is no checkpoint to resume from",
                where=f"job {job.name}",
                fix="build a new one, train a `folded()` copy, or give the folder of its checkpoints",
            )


def _trainee(job: Job, plan: Plan, config: TrainingConfig) -> Trainee:
    target = target_of(job, config) if job.dictionary.has_coefficient else None
    # In a dictionary's own units (mean squared norm = width) a coefficient near 1 is in range for any data.
    coefficient = 1.0 if job.dictionary.penalty is None else job.dictionary.penalty
    peak = config.lr or auto_learning_rate(job.dictionary.n_latents, plan.n_steps)
    # Thresholds are learned at √d_in times the rate of the weights (`Trainee`).
    pace, approach = peak * job.dictionary.d_in**0.5, max(1, 2 * plan.sparsity_warmup)
    return Trainee(job, plan, peak, L0Controller(coefficient, target, pace=pace, approach=approach))


def _identity(
    jobs: Sequence[Job], source: ActivationSource, config: TrainingConfig, plan: Plan, leaving: LeavingOut
) -> str:
    """The hash of all that shapes the result, so that a checkpoint of anything else is not resumed."""
    described = [
        {
            "name": job.name,
            "dictionary": job.dictionary.config.model_dump(mode="json"),
            "sites": [" + ".join(sites) for sites in (job.binding.reads, job.binding.writes)],
            "seed": job.seed,
            "target_l0": job.target_l0,
            **({"frozen": sorted(job.dictionary.frozen)} if job.dictionary.frozen else {}),
        }
        for job in jobs
    ]
    settings = config.model_dump(mode="json", exclude={"checkpoint_seconds", "leave_out"})
    left_out = {"left out": leaving.identity()} if leaving.sites else {}
    return fingerprint(
        {
            "version": _STATE_VERSION,
            "jobs": described,
            "config": settings,
            "plan": dataclasses.asdict(plan),
            "source": source.fingerprint,
            **left_out,
        }
    )


@final
class _Fit:
    """The loop's state.

    Attributes:
        done: whole steps; None while one is being taken: whatever ends it before its end, there is nothing to save.
        saved: the newest checkpoint.
    """

    def __init__(
        self,
        trainees: list[Trainee],
        plan: Plan,
        checkpoints: Path | None,
        identity: str,
        leaving: LeavingOut,
        at_doubling: Callable[[int], object] | None,
    ):
        self.trainees, self.plan, self.checkpoints, self.identity = trainees, plan, checkpoints, identity
        self.leaving, self.at_doubling = leaving, at_doubling
        self.done: int | None = 0
        self.saved: Path | None = None

    def resume(self, reporter: Reporter) -> int:
        """The step to start from: 0, or that of the last whole checkpoint, whose state is restored."""
        checkpoint = latest_checkpoint(self.checkpoints, reporter=reporter) if self.checkpoints else None
        if checkpoint is None:
            return 0
        where = str(checkpoint.path)
        version = cast(dict[str, Any], checkpoint.state).get("version") if isinstance(checkpoint.state, dict) else None
        if version != _STATE_VERSION:
            reporter.message(f"the checkpoint {where} was written by another version; the training starts again")
            return 0
        if checkpoint.state["identity"] != self.identity:
            raise DamagedArtifact(
                "the checkpoints belong to another training",
                where=str(self.checkpoints),
                fix="choose another folder, or delete this one",
            )
        restored: list[Callable[[], None]] = []
        try:
            for index, (trainee, state) in enumerate(zip(self.trainees, checkpoint.state["jobs"], strict=True)):
                prefix = f"{index}."
                own = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
                restored.append(trainee.restoring(own, state))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedArtifact(
                f"the checkpoint does not hold the state of this training ({str(error).splitlines()[0]})",
                where=where,
                fix="delete it",
            ) from error
        self.done = None
        for restore in restored:
            restore()
        self.done, self.saved = checkpoint.step, checkpoint.path
        reporter.message(f"training resumes from step {checkpoint.step} of {self.plan.n_steps}")
        return checkpoint.step

    def save(self) -> None:
        """Write a checkpoint of the state after `done` steps, unless it is there already."""
        assert self.done is not None, "a half-taken step is no state to resume from"
        if self.checkpoints is None or (self.saved is not None and self.saved.name == f"{self.done:010d}"):
            return
        tensors: dict[str, Tensor] = {}
        for index, trainee in enumerate(self.trainees):
            tensors.update({f"{index}.{name}": tensor for name, tensor in trainee.tensors().items()})
        state: dict[str, Any] = {
            "version": _STATE_VERSION,
            "identity": self.identity,
            "jobs": [trainee.state() for trainee in self.trainees],
        }
        self.saved = save_checkpoint(self.checkpoints, self.done, tensors, state)

    def train(self, source: ActivationSource, start: int, checkpoint_seconds: float, reporter: Reporter) -> None:
        """Steps `start` to the end."""
        with Signals() as signals:
            try:
                self._train(source, start, checkpoint_seconds, reporter, signals)
            except BaseException as error:
                with signals.leaving():
                    self._leave(error, reporter)
                raise

    def _train(
        self, source: ActivationSource, start: int, checkpoint_seconds: float, reporter: Reporter, signals: Signals
    ) -> None:
        plan = self.plan
        progress = reporter.task("training", plan.n_steps * plan.batch_size, "tokens")
        progress.update(start * plan.batch_size)
        saved_at = shown_at = time.monotonic()
        done = start
        self._mark(start)  # a checkpoint of this very step may have been saved on the way out of the call
        for batch in source.batches(plan.batch_size, start=start, stop=plan.n_steps):
            # A signal falls between steps, never between the jobs of one.
            with signals.held():
                done = self._step(batch)
                self._mark(done)
            del batch  # before the source makes the next
            now = time.monotonic()
            if now - shown_at >= _SECONDS_BETWEEN_UPDATES or done == plan.n_steps:
                progress.update(done * plan.batch_size, note=self._note())
                shown_at = now
            if now - saved_at >= checkpoint_seconds:
                self.save()
                saved_at = time.monotonic()
        assert done == plan.n_steps, f"the source gave {done - start} batches, not {plan.n_steps - start}"
        self.save()

    def _mark(self, done: int) -> None:
        if self.at_doubling is not None and done in self.plan.doublings:
            self.at_doubling(done * self.plan.batch_size)

    def _leave(self, error: BaseException, reporter: Reporter) -> None:
        """On the way out, whatever the reason: keep what was done, where that is a whole number of steps."""
        wanted = isinstance(error, KeyboardInterrupt)
        if not self.done:
            if wanted and self.saved is not None:
                reporter.message(f"stopped inside a step; the checkpoint before it is kept: {self.saved}")
            return
        try:
            self.save()
        except Exception as failed:
            if wanted:
                raise
            error.add_note(f"The state after step {self.done} could not be saved either: {failed}")
            return
        if wanted:
            reporter.message(
                f"stopped after step {self.done} of {self.plan.n_steps}; run the same command again to resume"
            )

    def _step(self, batch: SiteBatch) -> int:
        """Let every job take its step; how many are done then."""
        step, self.done = self.done, None
        assert step is not None
        for trainee in self.trainees:
            own = _to(self.leaving.kept(trainee.job.binding, batch), trainee.device)
            if step == 0 and len(own.x) < min(2, len(batch)):
                raise InputError(
                    f"leave_out leaves {len(own.x)} of the {len(batch)} vectors of the first batch",
                    where=f"training.leave_out, job {trainee.job.name}",
                    fix="raise training.batch_size, or leave out less",
                )
            if not len(own.x):
                trainee.skip(step)
                continue
            if step == 0:
                trainee.job.dictionary.initialise(own)
            try:
                trainee.step(own, step)
            except NotFinite as error:
                raise self._diverged(trainee, own, step, str(error)) from error
        self.done = step + 1
        return self.done

    def _diverged(self, trainee: Trainee, batch: Batch, step: int, what: str) -> Diverged:
        first, n = step * self.plan.batch_size, len(batch.x)
        where = f"job {trainee.job.name}, step {step + 1} of {self.plan.n_steps}, tokens {first} to {first + n}"
        binding = trainee.job.binding
        for sites, vectors in ((binding.reads, batch.x), (binding.writes, batch.y)):
            bad = (~torch.isfinite(vectors)).any(dim=1).nonzero().view(-1)
            if len(bad):
                row = int(bad[0])
                at = f"document {int(batch.document[row])}, position {int(batch.position[row])}"
                return Diverged(
                    f"{len(bad)} vectors of {' + '.join(sites)} hold NaN or infinities, the first at {at}",
                    where=where,
                    fix="run the network in float32, or leave that document out",
                )
        kept = f"the last good checkpoint is {self.saved}" if self.saved else "no checkpoint was written before it"
        return Diverged(
            f"training diverged: {what}",
            where=where,
            fix=f"lower training.lr (it was {trainee.peak_lr:.2g}) or training.clip; {kept}",
        )

    def _note(self) -> str:
        n = len(self.trainees)
        fvu = sum(t.fvu for t in self.trainees) / n
        l0 = sum(t.controller.l0 for t in self.trainees) / n
        dead = sum(float((t.idle >= self.plan.dead_after).float().mean()) for t in self.trainees) / n
        return f"fvu {fvu:.3f} · L0 {l0:.1f} · dead {dead:.0%}"


def _to(batch: Batch, device: torch.device) -> Batch:
    x = batch.x.to(device, torch.float32)
    y = x if batch.y is batch.x else batch.y.to(device, torch.float32)
    return dataclasses.replace(batch, x=x, y=y)
