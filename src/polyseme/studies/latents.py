"""The latents a report shows: the most telling of each word, each with everything known about it."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from polyseme.causal import CausalEffects
from polyseme.core.progress import Reporter
from polyseme.core.records import STATUSES, Interval
from polyseme.corpora.spelling import TokenTexts
from polyseme.evaluation.recurrence import Recurrence
from polyseme.interpret.contexts import LatentReader
from polyseme.interpret.logit_effects import logit_effects
from polyseme.interpret.neighbours import nearest_by_firing, nearest_by_writing
from polyseme.interpret.ranking import Candidate, most_telling
from polyseme.interpret.records import LatentReport, Neighbour, Size, TokenWeight
from polyseme.studies.findings import Findings
from polyseme.verdicts.axes import Z


def latent_reports(findings: Findings, reporter: Reporter) -> tuple[LatentReport, ...]:
    """At most `shown` latents of each word over all sites, in the order of display."""
    candidates = [
        Candidate(site, latent, *columns)
        for site, judged in findings.verdicts.items()
        for latent, columns in enumerate(
            zip(judged.status, judged.missing, judged.frequency.tolist(), judged.n_documents.tolist(), strict=True)
        )
        if columns[-1] > 0
    ]
    chosen = most_telling(candidates, findings.config.shown)
    described: dict[tuple[str, int], LatentReport] = {}
    n_chosen = sum(map(len, chosen.values()))
    if not n_chosen:
        return ()
    progress = reporter.task("describe latents", n_chosen, "latents")
    for site in findings.verdicts:
        of_site = {
            t.candidate.latent: t.why for status in STATUSES for t in chosen.get(status, ()) if t.candidate.site == site
        }
        for report in _describe(findings, site, of_site):
            described[site, report.latent] = report
            progress.update(len(described))
    return tuple(described[t.candidate.site, t.candidate.latent] for status in STATUSES for t in chosen.get(status, ()))


def describe(findings: Findings, site: str, latent: int) -> LatentReport:
    """One latent, whether it is among those shown or not."""
    return next(_describe(findings, site, {latent: ""}))


def _describe(findings: Findings, site: str, chosen: Mapping[int, str]) -> Iterator[LatentReport]:
    """Latents, each with the sentence that says why it is shown."""
    if not chosen:
        return
    seed = findings.config.seeds[0]
    real = findings.real
    firings, dictionary = real.readings.firings[site, seed], real.trained.dictionaries[site, seed]
    network = real.subject.network
    texts = TokenTexts(network.tokenizer)
    reader = LatentReader(firings, real.subject.tokens.heldout, texts)
    latents, judged = [*chosen], findings.verdicts[site]
    write, read = dictionary.write_directions().float().cpu(), dictionary.read_directions().float().cpu()
    logits = _logits(findings, write[latents], texts)
    near, together = nearest_by_writing(write, latents), nearest_by_firing(firings, latents)
    effects, recurrence = findings.effects.get(site), findings.recurrence.get(site)
    share = findings.shares[site]
    for row, (latent, why) in enumerate(chosen.items()):
        _, values = firings.of(latent)
        loss, kl = effects.at_tokens(latent) if effects else ({}, {})
        yield LatentReport(
            site=site,
            latent=latent,
            verdict=judged.verdicts[latent],
            why=why,
            density=float(firings.densities[latent]),
            n_tokens=len(values),
            n_documents=int(judged.n_documents[latent]),
            mean_activation=float(values.mean()) if len(values) else math.nan,
            max_activation=float(values.max()) if len(values) else math.nan,
            token_share=float(share.value[latent]),
            token_share_interval=_interval(float(share.low[latent]), float(share.high[latent])),
            recurrence=float(recurrence.match.value[:, latent].mean()) if recurrence else math.nan,
            sizes=_sizes(effects, latent) if effects else (),
            read_norm=float(read[latent].norm()),
            write_norm=float(write[latent].norm()),
            read_write_cosine=float(torch.cosine_similarity(read[latent], write[latent], dim=0))
            if findings.config.bindings[site].is_autoencoder
            else math.nan,
            nearest=_nearest(findings, recurrence, latent) if recurrence else (),
            neighbours=(*near[latent], *together[latent]),
            histogram=reader.histogram(latent),
            top_tokens=reader.top_tokens(latent),
            n_listed=reader.n_listed(latent),
            top_logits=logits[row][0],
            bottom_logits=logits[row][1],
            contexts=reader.contexts(latent, loss, kl),
        )


def _logits(
    findings: Findings, write: torch.Tensor, texts: TokenTexts
) -> list[tuple[tuple[TokenWeight, ...], tuple[TokenWeight, ...]]]:
    network = findings.real.subject.network
    unembedding = network.unembedding() if network.predicts_tokens else None
    if unembedding is None or unembedding.shape[1] != write.shape[1]:
        return [((), ())] * len(write)
    return logit_effects(write, unembedding.cpu(), texts)


def _sizes(effects: CausalEffects, latent: int) -> tuple[Size, ...]:
    """What is shown of a latent's effects beside the answer."""
    beyond = effects.given_token
    value, half = float(beyond.value[latent]), Z * float(beyond.error[latent])
    return (
        Size(
            name="given_token",
            value=value,
            interval=_interval(value - half, value + half),
            nulls=tuple((null, float(values[:, latent].mean())) for null, values in beyond.null.items()),
        ),
        *(
            Size(
                name=name,
                value=float(size.value[latent]),
                interval=_interval(float(size.low[latent]), float(size.high[latent])),
                nulls=tuple((null, float(values[latent])) for null, values in size.null.items()),
            )
            for name, size in effects.sizes.items()
        ),
    )


def _nearest(findings: Findings, recurrence: Recurrence, latent: int) -> tuple[Neighbour, ...]:
    """The best match in each partner, and the mean best match in the dictionaries of each kind of null."""
    partners = [
        Neighbour(dictionary=f"seed {seed}", latent=int(matched), value=float(value))
        for seed, matched, value in zip(
            findings.config.seeds[1:], recurrence.matched[:, latent], recurrence.match.value[:, latent], strict=True
        )
    ]
    nulls = [
        Neighbour(dictionary=kind, latent=None, value=float(draws[:, latent].mean()))
        for kind, draws in recurrence.null_match.items()
    ]
    return tuple(neighbour for neighbour in (*partners, *nulls) if not math.isnan(neighbour.value))


def _interval(low: float, high: float) -> Interval | None:
    return None if np.isnan(low) else Interval(low=low, high=high)
