"""The latents a report shows: the most telling of each verdict, each with everything known about it."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from polyseme.activations.firings import Firings
from polyseme.controls.study import Findings
from polyseme.core.records import STATUSES, Interval
from polyseme.evaluation.specificity import Margin, Specificity
from polyseme.interpret.contexts import LatentReader
from polyseme.interpret.logit_effects import logit_effects
from polyseme.interpret.neighbours import nearest_by_firing, nearest_by_writing
from polyseme.interpret.report import LatentReport, Neighbour, TokenWeight
from polyseme.interpret.telling import Candidate, Telling, most_telling
from polyseme.interpret.tokens import TokenTexts


def latent_reports(findings: Findings) -> tuple[LatentReport, ...]:
    """At most `shown` latents of each verdict over all sites, in the order of display."""
    seed = findings.config.seeds[0]
    candidates = [
        Candidate(site, latent, verdict, _density(findings.real.readings.firings[site, seed], latent), n_documents)
        for site, judged in findings.verdicts.items()
        for latent, (verdict, n_documents) in enumerate(zip(judged.verdicts, judged.n_documents, strict=True))
        if n_documents > 0
    ]
    chosen = most_telling(candidates, findings.config.shown)
    described: dict[tuple[str, int], LatentReport] = {}
    for site in findings.verdicts:
        of_site = [t for status in STATUSES for t in chosen.get(status, ()) if t.candidate.site == site]
        described |= {(site, report.latent): report for report in _describe(findings, site, of_site)}
    return tuple(
        described[t.candidate.site, t.candidate.latent] for status in STATUSES for t in chosen.get(status, ())
    )


def _describe(findings: Findings, site: str, chosen: list[Telling]) -> Iterator[LatentReport]:
    if not chosen:
        return
    seed = findings.config.seeds[0]
    real = findings.real
    firings, dictionary = real.readings.firings[site, seed], real.trained.dictionaries[site, seed]
    network = real.subject.network
    texts = TokenTexts(network.tokenizer)
    reader = LatentReader(firings, real.subject.tokens.heldout, texts)
    latents = [t.candidate.latent for t in chosen]
    write, read = dictionary.write_directions().float().cpu(), dictionary.read_directions().float().cpu()
    logits = _logits(findings, write[latents], texts)
    near, together = nearest_by_writing(write, latents), nearest_by_firing(firings, latents)
    share, specific = findings.shares[site], findings.specificity.get(site)
    for row, (telling, latent) in enumerate(zip(chosen, latents, strict=True)):
        _, values = reader.firing(latent)
        yield LatentReport(
            site=site,
            latent=latent,
            verdict=telling.candidate.verdict,
            why=telling.why,
            density=telling.candidate.density,
            n_tokens=len(values),
            n_documents=telling.candidate.n_documents,
            mean_activation=float(values.mean()),
            max_activation=float(values.max()),
            token_share=float(share.value[latent]),
            token_share_interval=_interval(float(share.low[latent]), float(share.high[latent])),
            recurrence=float(specific.recurrence.value[latent]) if specific else math.nan,
            read_norm=float(read[latent].norm()),
            write_norm=float(write[latent].norm()),
            read_write_cosine=float(torch.cosine_similarity(read[latent], write[latent], dim=0)),
            nearest=tuple(_nearest(findings, specific, latent)),
            neighbours=(*near[latent], *together[latent]),
            histogram=reader.histogram(latent),
            top_tokens=reader.top_tokens(latent),
            top_logits=logits[row][0],
            bottom_logits=logits[row][1],
            contexts=reader.contexts(latent),
        )


def _logits(
    findings: Findings, write: torch.Tensor, texts: TokenTexts
) -> list[tuple[tuple[TokenWeight, ...], tuple[TokenWeight, ...]]]:
    unembedding = findings.real.subject.network.unembedding()
    if unembedding is None or unembedding.shape[1] != write.shape[1]:
        return [((), ())] * len(write)
    return logit_effects(write, unembedding.cpu(), texts)


def _nearest(findings: Findings, specific: Specificity | None, latent: int) -> Iterator[Neighbour]:
    if specific is None:
        return
    other = findings.config.seeds[1]
    matches: dict[str, tuple[Margin, int]] = {f"seed {other}": (specific.recurrence, int(specific.match[""][latent]))}
    matches |= {
        f"control {name}": (margin, int(specific.match[name][latent])) for name, margin in specific.controls.items()
    }
    for name, (margin, match) in matches.items():
        if not math.isnan(margin.value[latent]):
            yield Neighbour(dictionary=name, latent=match, value=float(margin.value[latent]))


def _density(firings: Firings, latent: int) -> float:
    indptr = firings.columns.indptr
    return float(indptr[latent + 1] - indptr[latent]) / max(1, firings.n_tokens)


def _interval(low: float, high: float) -> Interval | None:
    return None if np.isnan(low) else Interval(low=low, high=high)
