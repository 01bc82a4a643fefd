"""Why a site's neurons are polysemantic: observe, compute every signature, decide."""

import re
from collections.abc import Iterable, Sequence

from jaxtyping import Bool
from torch import Tensor

from polyseme.core.config import Record
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.core.validation import check_kind
from polyseme.diagnosis.config import Answer, DiagnosisConfig
from polyseme.diagnosis.decide import decide
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Sampler, observe
from polyseme.diagnosis.signatures import BLIND_SIGNATURES, SIGNATURES
from polyseme.kernels.shield import shielded
from polyseme.networks import Network


class Diagnosis(Record):
    """Why neurons of a site answer to several features, and on what evidence."""

    answer: Answer
    reason: str
    """What the answer, or the abstention, rests on."""
    site: Site
    evidence: tuple[Line, ...]
    n_rows: int
    """Number of data rows used."""
    n_neurons: int
    features: tuple[str, ...]
    """Variables of the data that the site represents; empty where the data have none."""

    def line(self, name: str) -> Line:
        """The evidence of this name."""
        return next(line for line in self.evidence if line.name == name)


@shielded
def diagnose(
    network: Network,
    site: str | Site,
    inputs: Tensor | Sampler,
    config: DiagnosisConfig | None = None,
    reporter: Reporter | None = None,
    *,
    siblings: Sequence[Network] = (),
    controls: Iterable[Network] = (),
    counted: Bool[Tensor, "row position"] | None = None,
) -> Diagnosis:
    """Why neurons at a site are polysemantic, from the network and its data alone.

    Where the inputs are vectors, or sequences of few different tokens, their variables are taken for the candidate
    features and switched off one at a time; elsewhere only the site's vectors are decomposed.

    Args:
        network: the network to diagnose.
        site: a site with vectors `[row, d]` or `[row, position, d]`.
        inputs: `[row, ...]` from the distribution that the question is about, or a function that draws them.
        config: sampling and thresholds.
        reporter: receives progress updates.
        siblings: networks of the same shape and task from other seeds; without them `incidental` is not answered.
        controls: the network with re-initialised weights, two or more; without them `superposition` is not answered
            from vectors alone. They are taken one at a time, and only where the data have no variables.
        counted: which positions of the inputs count where the data have no variables; by default all do. Special
            tokens and padding should not: their vectors are often far from all others.

    Raises:
        InputError: there are too few rows, or the site's vectors have another shape, are constant or are not finite.
    """
    check_kind(network, Network, "network", where="network", fix='give polyseme.load_network("pylm")')
    if not callable(inputs):
        fix = "give a tensor [row, …], or a function that draws one"
        check_kind(inputs, Tensor, "tensor of inputs", where="inputs", fix=fix)
    config, reporter = config or DiagnosisConfig(), reporter or Silent()
    seen = observe(
        network, site, inputs, config, siblings=siblings, controls=controls, counted=counted, reporter=reporter
    )
    table = BLIND_SIGNATURES if seen.written is None else SIGNATURES
    progress = reporter.task("diagnosis", len(table), "signatures")
    evidence: dict[str, Line] = {}
    for done, (name, signature) in enumerate(table.items()):
        evidence[name] = signature(seen)
        progress.update(done + 1, note=name)
    answer, reason = decide(evidence)
    return Diagnosis(
        answer=answer,
        reason=reason,
        site=seen.site,
        evidence=tuple(evidence.values()),
        n_rows=len(seen.vectors),
        n_neurons=seen.vectors.shape[1],
        features=tuple(sorted(seen.written.names, key=_place)) if seen.written else (),
    )


def _place(name: str) -> int:
    """The first column, or the token, that a variable's name gives."""
    return int(re.findall(r"\d+", name)[0])
