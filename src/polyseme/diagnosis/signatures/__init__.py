"""Signatures: one file each, a pure function from what was observed to one line of evidence.

Adding one is a file here and a line in `SIGNATURES`; `polyseme.diagnosis.decide` reads them by name.
"""

from collections.abc import Callable

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.additivity import additivity
from polyseme.diagnosis.signatures.arrangement import arrangement
from polyseme.diagnosis.signatures.co_firing import co_firing
from polyseme.diagnosis.signatures.dimensions import features_per_dimension, groups_per_dimension, spare_dimensions
from polyseme.diagnosis.signatures.gating import gating
from polyseme.diagnosis.signatures.neuron_axes import neuron_concentration, neuron_purity, worst_neuron
from polyseme.diagnosis.signatures.outputs import output_joint
from polyseme.diagnosis.signatures.overcomplete import overcomplete_gain
from polyseme.diagnosis.signatures.partners import partners
from polyseme.diagnosis.signatures.probes import linear_read, probe_gap
from polyseme.diagnosis.signatures.rotation import rotation, variable_rotation, worst_rotation
from polyseme.diagnosis.signatures.scaling import scaling
from polyseme.diagnosis.signatures.sources import source_purity, source_rotation, sources, two_sided
from polyseme.diagnosis.signatures.sparse_read import sparse_read

Signature = Callable[[Observations], Line]

SIGNATURES: dict[str, Signature] = {
    "features_per_dimension": features_per_dimension,
    "groups_per_dimension": groups_per_dimension,
    "spare_dimensions": spare_dimensions,
    "neuron_purity": neuron_purity,
    "worst_neuron": worst_neuron,
    "neuron_concentration": neuron_concentration,
    "rotation": rotation,
    "worst_rotation": worst_rotation,
    "variable_rotation": variable_rotation,
    "arrangement": arrangement,
    "co_firing": co_firing,
    "additivity": additivity,
    "gating": gating,
    "scaling": scaling,
    "linear_read": linear_read,
    "sparse_read": sparse_read,
    "probe_gap": probe_gap,
    "output_joint": output_joint,
    "partners": partners,
}
"""Signatures of sites whose data have variables, which are switched off one at a time."""

BLIND_SIGNATURES: dict[str, Signature] = {
    "sources": sources,
    "two_sided": two_sided,
    "source_purity": source_purity,
    "source_rotation": source_rotation,
    "overcomplete_gain": overcomplete_gain,
    "scaling": scaling,
}
"""Signatures of sites of which only the vectors are known."""

__all__ = ["BLIND_SIGNATURES", "SIGNATURES", "Signature"]
