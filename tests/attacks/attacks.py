"""The attacks: studies of the embedded network in which a verdict that says too much would show."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polyseme
from polyseme.activations import collect_firings
from polyseme.causal import CausalEffects, Meanings, causal_effects, n_predicted
from polyseme.core.records import AXES, STATUSES, Axis, Status
from polyseme.screen.progress import default_reporter
from polyseme.studies.agreement import Agreement, agreement
from polyseme.studies.latent_table import LatentTable
from polyseme.studies.result import StudyResult
from polyseme.verdicts.evidence import site_evidence
from polyseme.verdicts.judge import judge
from polyseme.zoo.tools.exact import Directions

ROOT = Path(os.environ.get("POLYSEME_ATTACKS", ".attacks"))
WEIGHTS = ("gaussian_reinit", "spectrum_reinit")
TOKENS: dict[str, Any] = {
    "train": 400_000,
    "train_document_tokens": 2048,
    "heldout": 90_000,  # all that there are: 44,788 with Python 3.11.7
    "heldout_document_tokens": 256,
    "splice": 4_000,
    "allow_fewer": True,
}
BASE: dict[str, Any] = {
    "name": "attack",
    "sites": ["blocks.1.resid_post", "blocks.2.resid_post"],
    "network": {"source": "pylm"},
    "corpus": {"kind": "stdlib"},
    "tokens": TOKENS,
    "dictionary": {"architecture": "topk", "n_latents": 1024, "k": 24},
    "training": {"n_tokens": 500_000, "batch_size": 2048},
    "controls": [{"kind": kind} for kind in WEIGHTS],
}
_RANDOM = "tests.attacks.networks:"
NOTHING_LEARNED: Mapping[str, Mapping[str, Any]] = {
    "a re-initialised network (gaussian)": {"network": {"source": f"{_RANDOM}gaussian"}},
    "a re-initialised network (spectrum)": {"network": {"source": f"{_RANDOM}spectrum"}},
    "random blocks between trained embeddings": {"network": {"source": f"{_RANDOM}blocks"}},
    "unigram text": {"null": {"kind": "unigram_tokens", "seed": 77}},
}
"""Networks of random weights stand for the study's own, and have other draws for controls."""
FEWER = {"tokens": {**TOKENS, "heldout": 22_400}}
"""Half of the held-out tokens that there are: half of the documents that another `draw_seed` draws are others."""
LESS: Mapping[str, Mapping[str, Any]] = {
    "half the causal samples": {"causal": {"n_samples": 3}},
    "half the held-out tokens": FEWER,
    "half the resamples": {"causal": {"n_resamples": 500}},
}
"""What is halved, of the quick level."""
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "k = 48": {"dictionary": {**BASE["dictionary"], "k": 48}},
    "100k training tokens": {"training": {**BASE["training"], "n_tokens": 100_000}},
}
"""Other dictionaries, whose shares may differ: they are shown."""
REDRAWN: Mapping[str, Any] = {
    "seeds": [0, 11, 12, 13, 14, 15],
    "controls": [{"kind": kind, "seed": 5} for kind in WEIGHTS],
    "draw_seed": 1,
}
"""The same judged dictionaries; other partners, draws of nulls, samples and directions."""
TEXT_NULLS: Mapping[str, Any] = {
    "controls": [*BASE["controls"], {"kind": "shuffled_tokens"}, {"kind": "unigram_tokens"}]
}
_STUDIES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "redrawn": REDRAWN,
    "some documents": FEWER,
    "redrawn with other documents": {**REDRAWN, **FEWER},
    "text nulls": TEXT_NULLS,
    **NOTHING_LEARNED,
    **LESS,
    **OTHERS,
}


@cache
def study(name: str, evidence: str = "quick") -> StudyResult:
    """One of the studies, at a level of evidence; its finished stages are kept."""
    return polyseme.study({**BASE, **_STUDIES[name], "evidence": evidence}, root=ROOT, reporter=default_reporter())


def shares(table: LatentTable) -> dict[Status, float]:
    """The share of latents with each word."""
    return {status: float((table["status"] == status).mean()) for status in STATUSES}


def answered(table: LatentTable) -> dict[Axis, float]:
    """The share of latents that each axis says yes of, out of those that it answers."""
    return {axis: float((table[axis] == "yes").sum() / max(1, (table[axis] != "unknown").sum())) for axis in AXES}


PAIRS = {
    "all documents": ("as it is", "redrawn"),
    "other documents": ("some documents", "redrawn with other documents"),
}
"""Two studies of the same dictionaries with other partners, draws of nulls, samples and directions."""


def redrawn(pair: str) -> Agreement:
    """How two studies of the same dictionaries agree."""
    one, other = PAIRS[pair]
    return agreement(study(one, "standard"), study(other, "standard"))


def random_write_directions() -> dict[str, tuple[int, int]]:
    """By site, the latents that are used, and those that are with random directions of the site's covariance."""
    result = study("as it is")
    found: dict[str, tuple[int, int]] = {}
    for site in result.sites:
        effects = _with_random_directions(result, site)
        n_documents = result.findings.verdicts[site].n_documents
        evidence = site_evidence(n_documents, None, effects, config=result.findings.config.verdicts, missing={})
        replaced = judge({site: evidence})[site].outcomes["used"]
        own = result.findings.verdicts[site].outcomes["used"]
        found[site] = int(own.yes.sum()), int(replaced.yes.sum())
    return found


def _with_random_directions(result: StudyResult, site: str) -> CausalEffects:
    """The effects of latents that fire as they do and write along random directions of the site's covariance."""
    findings, dictionary = result.findings, result.dictionary(site)
    subject, config = findings.real.subject, findings.config
    network, binding = subject.network, subject.bindings[site]
    heldout, train = subject.tokens.heldout, subject.learned_on(config.evaluation.lookup_tokens)
    firings = collect_firings(network, train, {"": (binding, dictionary)})[""]
    tokens = torch.from_numpy(heldout.tokens[:64].astype(np.int64))
    (read,) = binding.writes
    with torch.no_grad():
        vectors = network.read(tokens, [read])[read].flatten(0, -2)
    factor = torch.linalg.qr(vectors - vectors.mean(0), mode="r").R
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randn(dictionary.n_latents, len(factor), generator=generator) @ factor
    size = dictionary.write_directions().norm(dim=1) / drawn.norm(dim=1)
    return causal_effects(
        network,
        heldout,
        binding,
        Directions(drawn * size[:, None].detach()),
        findings.real.readings.firings[site, config.seeds[0]],
        Meanings.learn(firings, train, n_predicted(network, train)),
        config=config.causal,
        min_documents=config.verdicts.min_documents,
        seed=3,
        reporter=default_reporter(),
    )


def one(found: Agreement, of: str, measure: str, site: str = "all") -> float:
    """One figure of an agreement."""
    return float(found["share"][found.rows_where({"site": site, "of": of, "measure": measure})][0])
