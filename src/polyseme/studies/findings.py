"""What a study found, before it is put into words."""

from dataclasses import dataclass

import numpy as np

from polyseme.causal import CausalEffects
from polyseme.core.records import MetricRecord
from polyseme.evaluation import Continuation, DocumentSums
from polyseme.evaluation.specificity import Specificity
from polyseme.evaluation.token_share import TokenShare
from polyseme.networks import Network
from polyseme.studies.config import StudyConfig
from polyseme.studies.measured import Readings, Spliced, Trained
from polyseme.studies.stages.tokens import Tokens
from polyseme.studies.subject import Subject
from polyseme.verdicts.judge import SiteVerdicts
from polyseme.verdicts.requirements import shortfalls


@dataclass(frozen=True)
class Measured:
    """One subject, trained and measured.

    Attributes:
        subject: what was studied.
        trained: its dictionaries.
        readings: over its own held-out tokens.
        shared: over the real study's held-out tokens, the same object where those are its own.
        spliced: what patching costs it.
    """

    subject: Subject
    trained: Trained
    readings: Readings
    shared: Readings
    spliced: Spliced


@dataclass(frozen=True)
class Findings:
    """Everything a study found, before it is put into words.

    Attributes:
        config: config of the study.
        real: the study itself.
        controls: control name to the same study on it.
        baselines: metrics of look-up tables, by site.
        stability: by site, between the first two seeds.
        continuations: text by the clean and by the jointly patched network.
        effects, specificity, shares, verdicts: by site, of the first seed's dictionaries.
    """

    config: StudyConfig
    real: Measured
    controls: dict[str, Measured]
    baselines: dict[str, list[DocumentSums]]
    stability: dict[str, list[MetricRecord]]
    continuations: list[Continuation]
    effects: dict[str, CausalEffects]
    specificity: dict[str, Specificity]
    shares: dict[str, TokenShare]
    verdicts: dict[str, SiteVerdicts]


def heldout_documents(tokens: Tokens) -> int:
    """How many documents the held-out side has."""
    return len(np.unique(tokens.heldout.document[~tokens.heldout.special]))


def shortfalls_of(config: StudyConfig, network: Network, tokens: Tokens) -> list[str]:
    """What keeps the study's verdicts from saying anything, as far as it is known before anything is trained."""
    return shortfalls(
        config.causal,
        config.verdicts,
        [config.dictionary.width(sum(map(network.width, binding.reads))) for binding in config.bindings.values()],
        n_documents=heldout_documents(tokens),
        predicts=network.predicts_tokens,
        lacks=config.lacks,
    )
