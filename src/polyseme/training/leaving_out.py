"""What a fit leaves out of its batches, and what it reports about massive vectors before it begins.

Rows are dropped from a batch, and only from that of the job whose vectors they are: batches stay a pure function of
the step, and a job trained among others sees what it would see alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from polyseme.activations import ActivationSource
from polyseme.activations.massive import FACTOR, MOST, SAMPLE, Ordinary, Spread, ordinary_rows, spreads_of
from polyseme.core.batch import Batch, SiteBatch
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.training.config import LeaveOutConfig, TrainingConfig
from polyseme.training.jobs import Job, Plan


@final
@dataclass(frozen=True)
class LeavingOut:
    """Which rows of a batch each job trains on.

    Attributes:
        sites: for each site where something is left out, what recognises its ordinary vectors.
    """

    sites: dict[str, Ordinary]

    def kept(self, binding: Binding[str], batch: SiteBatch) -> Batch:
        """The batch of a dictionary, without the rows whose vectors are not ordinary at all its sites."""
        whole = batch.at(binding)
        mask = ordinary_rows(binding.places, batch.acts, batch.position, self.sites)
        if mask is None or bool(mask.all()):
            return whole
        rows = mask.nonzero().view(-1)
        x = whole.x.index_select(0, rows)
        y = x if whole.y is whole.x else whole.y.index_select(0, rows)
        ids = rows.to(batch.token.device)
        token, document, position = (t.index_select(0, ids) for t in (batch.token, batch.document, batch.position))
        return Batch(x, y, token, document, position)

    def identity(self) -> dict[str, str]:
        """Differs where other vectors are left out; empty where none is."""
        return {site: ordinary.identity for site, ordinary in self.sites.items()}


def measured_spreads(
    jobs: Sequence[Job], source: ActivationSource, plan: Plan, reporter: Reporter
) -> dict[str, Spread]:
    """The spread of each site of the jobs over the first vectors of the training, at most `SAMPLE` and a batch."""
    n_tokens = min(SAMPLE, plan.n_steps * plan.batch_size, source.n_tokens)
    stop = -(-n_tokens // plan.batch_size)
    progress = reporter.task("spread of the vectors", stop * plan.batch_size, "tokens")
    sites = dict.fromkeys(site for job in jobs for site in job.binding.places)

    def batches():
        for done, batch in enumerate(source.batches(plan.batch_size, start=0, stop=stop), start=1):
            yield {site: batch.acts[site] for site in sites}, batch.position
            progress.update(done * plan.batch_size)

    return spreads_of(batches())


def leaving_out(jobs: Sequence[Job], config: TrainingConfig, spreads: Mapping[str, Spread]) -> LeavingOut:
    """What the config leaves out of each site's vectors.

    Args:
        jobs: what is trained.
        config: says what is left out.
        spreads: of the sites; needed where `leave_out.norm` is set.

    Raises:
        InputError: a site has no spread, or hardly a vector is left.
    """
    wanted = config.leave_out
    if wanted == LeaveOutConfig():
        return LeavingOut({})
    sites: dict[str, Ordinary] = {}
    for site in dict.fromkeys(site for job in jobs for site in job.binding.places):
        if site not in spreads:
            raise InputError(
                "vectors can only be left out where their spread was measured",
                where=f"training.leave_out, site {site}",
                fix="give fit no spreads, so that it measures them, or give the site's",
            )
        spread = spreads[site]
        ordinary = spread.ordinary(wanted.norm, wanted.positions)
        if spread.kept(ordinary) < 2:
            low, high = int(spread.positions.min()), int(spread.positions.max())
            raise InputError(
                f"of {len(spread.distances):,} vectors at positions {low} to {high} none is left to train on",
                where=f"training.leave_out, site {site}",
                fix="leave out fewer positions, or raise norm",
            )
        if not ordinary.keeps_all:
            sites[site] = ordinary
    return LeavingOut(sites)


def massive_message(site: str, spread: Spread, config: LeaveOutConfig) -> str:
    """The message about a site's massive vectors; empty where there is nothing to say."""
    factor = FACTOR if config.norm is None else config.norm
    if config.norm is not None and spread.limit(factor) == float("inf"):
        why = (
            f"more than {MOST:.0%} of its vectors are farther than {factor:g} times the median distance"
            if spread.median > 0
            else "all its vectors are alike"
        )
        return f"{site}: {why}, so none is left out by norm"
    massive = spread.massive(factor)
    if not massive.telling:
        return ""
    after = (
        f"FVU is mostly about them, fvu_ordinary leaves them out, and so does training with "
        f"training.leave_out.norm = {factor:g}"
        if config.norm is None
        else "training leaves them out"
    )
    return f"{site}: {massive.sentence}; {after}"
