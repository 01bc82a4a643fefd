"""What a study asks of its sites before any long work."""

from collections.abc import Mapping

from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.evaluation.patching import clean_reads
from polyseme.networks import Network
from polyseme.networks.survey import NOT_FINITE_FIX
from polyseme.studies.config import StudyConfig
from polyseme.studies.subject import dictionary_name

MAX_NAME = 200
"""Longest name of a dictionary, in bytes: its folder is named after its site."""


def check_sites(
    study: StudyConfig,
    network: Network,
    sites: Mapping[str, Site],
    bindings: Mapping[str, Binding[Site]],
    context: int,
) -> None:
    """Refuse a site that no dictionary can be trained or judged at.

    A few passes, the longest over one window as long as the study's, look at all sites at once.

    Raises:
        InputError: two names of one place; a site that is not reached, is called several times, gives something else
            than one finite vector of real numbers for each token, or is what the network returns; a dictionary that
            reads, and does not write, what comes after a site that it writes, or writes what another does.
    """
    _check_names(bindings)
    draw = network.facts.drawing()
    # In a short window no width is likely to be equal to its positions; the long one is what the study runs on.
    for tokens in (draw(2, min(context, 7)), draw(1, context)):
        found = network.survey(list(sites.values()), tokens)
        for name, site in sites.items():
            seen = found[site]
            problem = seen.problem(tokens.shape)
            if problem is None and seen.is_output:
                problem = "it is what the network returns, and nothing after it shows what a dictionary loses"
            if problem is not None:
                raise InputError(
                    f"no dictionary can be trained at the site {name!r}: {problem}",
                    where="sites" if seen.finite else study.network.source,
                    fix=f"`polyseme sites {study.network.source}` lists sites that give one vector a token"
                    if seen.finite
                    else NOT_FINITE_FIX,
                )
        if not all(seen.output_is_finite for seen in found.values()):
            raise InputError(
                "the network's output is not finite",
                where=study.network.source,
                fix=NOT_FINITE_FIX,
            )
    network.widths(list(sites.values()))
    clean_reads(network, bindings.values())


def _check_names(bindings: Mapping[str, Binding[Site]]) -> None:
    writers: dict[Site, str] = {}
    files: dict[str, str] = {}
    for name, binding in bindings.items():
        for site in binding.writes:
            first = writers.setdefault(site, name)
            if first != name:
                alone = binding.places == (site,)
                raise InputError(
                    f"`sites` names one place twice: {first!r} and {name!r} are both {site}"
                    if alone and bindings[first] == binding
                    else f"{first!r} and {name!r} both write {site}, and all sites of a study are patched in one pass",
                    where="sites",
                    fix="leave one of them out" if alone else "study one of them in a study of its own",
                )
        file = dictionary_name(name, 0)
        other = files.setdefault(file.lower(), name)
        if other != name or len(file.encode()) > MAX_NAME:
            what = "is too long" if other == name else f"gives the same file names as {other!r}"
            raise InputError(f"the site's name {name[:80]!r} {what}", where="sites", fix="rename its module")
