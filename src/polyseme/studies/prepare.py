"""What a study asks of its network, sites, corpus and machine before anything is trained."""

import torch

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.dictionaries.engine.start import check_tied
from polyseme.nulls.dictionaries import DictionaryNull
from polyseme.studies.check import check_network, tell_predictions
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import heldout_documents, shortfalls_of
from polyseme.studies.plan import Plan
from polyseme.studies.price import Sizes, check_price
from polyseme.studies.sites import check_sites
from polyseme.studies.stage import Worker
from polyseme.studies.stages.tokens import Tokens


def look(plan: Plan, worker: Worker) -> Sizes:
    """Refuse a network, sites and sizes that cannot work, before the corpus is read."""
    config, reporter, network = plan.config, worker.reporter, worker.network
    sites, bindings = worker.sites, worker.bindings
    _check_controls(config)
    _check_frozen(config, worker)
    looking = reporter.task("look at the network", 4, "checks")
    check_network(config, network, reporter)
    looking.update(1)
    context = worker.context
    looking.update(2)
    check_sites(config, network, sites, bindings, context)
    looking.update(3)
    tell_predictions(network, reporter)  # last, for it takes longest and refuses nothing
    looking.update(4)
    sizes = Sizes.asked(config, network, context, n_further=len(plan.nulls) - len(plan.controls))
    if not config.tokens.allow_fewer:  # what is asked for is what there will be
        _check_price(sizes, worker, reporter)
    return sizes


def prepare(plan: Plan, worker: Worker) -> None:
    """Refuse what cannot work, and say what keeps the study from saying anything, before anything is trained."""
    sizes = look(plan, worker)
    config, reporter = plan.config, worker.reporter
    tokens = plan.real.role.subject(worker).tokens
    _check_documents(config, tokens)
    for line in shortfalls_of(worker, tokens):
        reporter.message(line)
    found = sizes.found(
        n_train=tokens.train.n_tokens, n_heldout=tokens.heldout.n_tokens, n_documents=heldout_documents(tokens)
    )
    _check_price(found, worker, reporter if config.tokens.allow_fewer else Silent())


def _check_price(sizes: Sizes, worker: Worker, reporter: Reporter) -> None:
    config, device = worker.config, worker.network.device
    check_price(config, sizes, causal=config.causal, device=device, root=worker.store.root, reporter=reporter)


def _check_documents(config: StudyConfig, tokens: Tokens) -> None:
    """The errors of correlations are over held-out documents."""
    if len(config.seeds) > 1 and heldout_documents(tokens) < 2:
        raise InputError(
            "the held-out tokens are of one document, and matches of latents need at least two",
            where="tokens.heldout",
            fix="raise tokens.heldout, set tokens.heldout_document_tokens to take less of each document, or "
            "train one seed",
        )


def _check_frozen(config: StudyConfig, worker: Worker) -> None:
    """A dictionary of which one direction cannot be frozen alone is refused before the others are trained."""
    nulls = [null for null in (config.null, *config.controls) if isinstance(null, DictionaryNull)]
    n_latents = config.dictionary.width(min(worker.read_widths.values()))
    if nulls and config.dictionary.activation(torch.zeros(n_latents, dtype=torch.float32), 1.0).tied:
        for null in nulls:
            check_tied(null.frozen)


def _check_controls(config: StudyConfig) -> None:
    """What cannot work is said before anything is trained."""
    if config.null is not None and any(c.targets == config.null.targets for c in config.controls):
        raise InputError(
            f"the study is of a null of {config.null.targets} already, so a control on them is no null of it",
            where="null",
            fix=f"leave out null, or the controls on {config.null.targets}",
        )
