"""From evidence to an answer: a pure function of the lines of evidence."""

import math
from collections.abc import Mapping

from polyseme.diagnosis.config import Answer
from polyseme.diagnosis.line import Line

Decision = tuple[Answer, str]
UNREAD = 0.8
"""R² of linear probes up to which features that gate each other count as unread by them."""


def decide(evidence: Mapping[str, Line]) -> Decision:
    """The answer and its reason, as one sentence without a full stop.

    Each answer needs its own lines to pass and its rivals' to be excluded by their intervals; what lies between is
    `abstain`.
    """
    return _of_variables(evidence) if "features_per_dimension" in evidence else _of_vectors(evidence)


def _of_variables(e: Mapping[str, Line]) -> Decision:
    crowded, additive = e["features_per_dimension"], e["additivity"]
    interacts = _low(additive) > additive.threshold
    if interacts and _high(e["linear_read"]) < e["linear_read"].threshold and not crowded.passed:
        # A softmax makes positions interact whatever they hold; a code for one variable must turn on another.
        if e["gating"].passed and e["probe_gap"].passed:
            return "non_linear", "the features interact before the site, and only a probe that is not linear reads them"
        if e["gating"].passed and _high(e["linear_read"]) <= UNREAD:
            return "non_linear", "what one feature writes depends on another, and no direction stands for it"
        return "abstain", "the features interact before the site, and no probe reads them well enough to say how"
    if crowded.passed:
        return _crowded(e, interacts)
    if _high(crowded) > 1:
        return "abstain", "whether there are more features than dimensions is within the error"
    return _roomy(e, interacts)


def _crowded(e: Mapping[str, Line], interacts: bool) -> Decision:
    """More features than the dimensions they use."""
    together = e["co_firing"]
    grouped = not e["groups_per_dimension"].passed
    if together.passed and grouped:
        return "correlated", "the features that share a direction fire together, and joined they fit the dimensions"
    if grouped and _high(together) >= together.threshold / 2:
        return "abstain", "features that share a direction fire together, but not often enough to be the reason"
    if e["spare_dimensions"].passed:
        return _collided(e)
    if interacts:
        return "abstain", "there are more features than dimensions, but what they write does not add up"
    if not e["arrangement"].passed:
        return "abstain", "more features than dimensions, arranged no better than by a random matrix"
    if not e["sparse_read"].passed:
        return "abstain", "more features than dimensions, too dense in these data for a sparse code to separate"
    return "superposition", "more features than dimensions, kept apart by their arrangement and read by a sparse code"


def _collided(e: Mapping[str, Line]) -> Decision:
    """Features share dimensions though some are to spare."""
    partners = e["partners"]
    if not e["neuron_concentration"].passed:
        return "abstain", "features share dimensions though some are to spare, and not by sharing neurons"
    if math.isnan(partners.effect):
        return "abstain", "features share neurons though some are to spare: incidental, if siblings pair other features"
    if partners.passed:
        return "incidental", "features share neurons though some are to spare, and other seeds pair other features"
    if _low(partners) < partners.threshold:
        return "abstain", "features share neurons though some are to spare, in too few pairs to rule out chance"
    return "abstain", "features share neurons though some are to spare, and networks of other seeds pair the same ones"


def _roomy(e: Mapping[str, Line], interacts: bool) -> Decision:
    """A dimension for every feature."""
    pure = e["neuron_purity"]
    if e["output_joint"].passed:
        if _holds_variables(e):
            return "compositional", "each neuron holds its variable, and no unit or pair of units carries the output"
        return "abstain", "no unit and no pair of units carries the output: compositional, or not computed yet"
    if e["co_firing"].passed:
        return "correlated", "the features that share a direction fire together"
    if pure.passed and e["worst_neuron"].passed:
        return "aligned", "every neuron answers to one feature"
    if e["spare_dimensions"].passed and e["neuron_concentration"].passed and not math.isnan(e["partners"].effect):
        return _collided(e)
    if _high(pure) >= pure.threshold:
        return "abstain", "neurons answer mostly to one feature each, but some are shared, or chance would give as much"
    if e["rotation"].passed and e["worst_rotation"].passed and e["additivity"].passed:
        return "rotated", "neurons answer to several features, and one rotation would give each feature its own"
    if e["variable_rotation"].passed:
        return "rotated", "neurons answer to several features, and to one each of the features turned"
    if interacts:
        return "abstain", "there is a dimension for every variable, but what they write does not add up"
    return "abstain", "there is a dimension for every feature, but the features are not orthogonal beyond chance"


def _holds_variables(e: Mapping[str, Line]) -> bool:
    """Whether the site itself holds the variables one by one, so that only their joint value is missing."""
    return e["additivity"].passed and e["neuron_purity"].passed and e["linear_read"].passed


def _of_vectors(e: Mapping[str, Line]) -> Decision:
    sources = e["sources"]
    if _high(sources) < sources.threshold:
        return "none", "nothing but their covariance sets the vectors apart from a Gaussian's"
    if not sources.passed:
        return "abstain", "whether the vectors have components of their own is within the error"
    gain = e["overcomplete_gain"]
    if gain.passed:
        return "superposition", "an overcomplete sparse dictionary explains more than independent components could"
    if _high(gain) >= gain.threshold:
        return "abstain", "an overcomplete dictionary may explain more than a complete one; " + gain.note
    if e["two_sided"].passed:
        return "abstain", "components have both signs: variables of both signs, or pairs of opposed features"
    if e["source_purity"].passed:
        return "aligned", "every neuron answers to one independent component"
    if e["source_rotation"].passed and _high(e["source_purity"]) < e["source_purity"].threshold:
        return "rotated", "the independent components are orthogonal, and not along the neurons"
    return "abstain", "the vectors have components of their own, neither along the neurons nor orthogonal"


def _low(line: Line) -> float:
    return line.effect if line.interval is None else line.interval.low


def _high(line: Line) -> float:
    return line.effect if line.interval is None else line.interval.high
