"""Whatever cannot work is refused before any work is done."""

from collections.abc import Sequence

from polyseme.activations import ActivationSource
from polyseme.core.errors import InputError, nearest_names
from polyseme.training.config import TrainingConfig
from polyseme.training.jobs import Job, Plan

_FEWEST_DEAD_TOKENS, _MOST_DEAD_TOKENS = 10_000, 10_000_000


def plan_of(jobs: Sequence[Job], source: ActivationSource, config: TrainingConfig) -> Plan:
    """Check that the jobs fit the source and the config, and count steps.

    Raises:
        InputError: no jobs, two of one name, an unknown site, a wrong width, fewer tokens than a batch, schedules
            longer than the training, or a target L0 that cannot be.
    """
    _check_jobs(jobs, source, config)
    n_tokens = config.n_tokens or source.n_tokens
    if config.batch_size > min(n_tokens, source.n_tokens):
        raise InputError(
            f"a batch of {config.batch_size} tokens is more than the {min(n_tokens, source.n_tokens)} there are",
            where="training.batch_size",
            fix="lower batch_size, or raise n_tokens and give a larger corpus",
        )
    if config.warmup + config.decay > 1:
        raise InputError(
            f"warm-up ({config.warmup}) and decay ({config.decay}) are longer than the training",
            where="training.warmup, training.decay",
            fix="they are shares of the steps: together at most 1",
        )
    n_steps = n_tokens // config.batch_size
    dead_after = config.dead_after or min(_MOST_DEAD_TOKENS, max(_FEWEST_DEAD_TOKENS, n_tokens // 20))
    warmup, decay = round(config.warmup * n_steps), round(config.decay * n_steps)
    sparsity_warmup = round(config.sparsity_warmup * n_steps)
    return Plan(
        n_steps=n_steps,
        batch_size=config.batch_size,
        warmup=warmup,
        decay=decay,
        sparsity_warmup=sparsity_warmup,
        dead_after=dead_after,
        betas=(config.beta1, config.beta2),
        clip=config.clip,
        revive=config.revive,
        # A latent needs time to learn, and to show that it lives.
        revived=(max(warmup, sparsity_warmup), n_steps - max(decay // 2, -(-dead_after // config.batch_size))),
    )


def _check_jobs(jobs: Sequence[Job], source: ActivationSource, config: TrainingConfig) -> None:
    if not jobs:
        raise InputError("there is no dictionary to train", where="jobs", fix="give at least one site and one seed")
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"two jobs are called {twice[0]!r}", where="jobs", fix="give each its own name")
    if len({id(job.dictionary) for job in jobs}) < len(jobs):
        raise InputError("two jobs train the same dictionary object", where="jobs", fix="build one for each job")
    for job in jobs:
        for site in job.binding.places:
            if site not in source.widths:
                near = nearest_names(site, list(source.widths)) or list(source.widths)[:5]
                raise InputError(
                    f"the activations have no site {site!r}", where=f"job {job.name}", fix=f"nearest: {', '.join(near)}"
                )
        for sites, width, port in (
            (job.binding.reads, job.dictionary.d_in, "d_in"),
            (job.binding.writes, job.dictionary.d_out, "d_out"),
        ):
            there = sum(source.widths[site] for site in sites)
            if there != width:
                raise InputError(
                    f"the dictionary's {port} is {width}, the vectors of {' + '.join(sites)} have width {there}",
                    where=f"job {job.name}",
                    fix=f"build it with {port}={there}",
                )
        _check_target(job, target_of(job, config))


def target_of(job: Job, config: TrainingConfig) -> float | None:
    """The job's own target L0, else the config's."""
    return config.target_l0 if job.target_l0 is None else job.target_l0


def _check_target(job: Job, target: float | None) -> None:
    if target is None:
        return
    where = f"training.target_l0, job {job.name}"
    if not 0 < target <= job.dictionary.n_latents:
        raise InputError(
            f"a target L0 of {target:g} cannot be reached with {job.dictionary.n_latents} latents",
            where=where,
            fix="choose one above 0, far below n_latents",
        )
    k = job.dictionary.active_latents
    if k is not None and k != target:
        raise InputError(
            f"the dictionary keeps k={k:g} latents, the target L0 is {target:g}",
            where=where,
            fix=f"set k to {target:g}, or leave target_l0 out",
        )
