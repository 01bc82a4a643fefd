"""The continuations stage: text written by the clean and by the jointly patched network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polyseme.core.config import identity
from polyseme.evaluation import Continuation, ContinuationConfig, continue_text
from polyseme.store import Artifact, save_json
from polyseme.studies.config import NEW_TOKENS, PROMPT_TOKENS
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.subject import Role, on

_LIST = TypeAdapter(list[Continuation])


@dataclass(frozen=True, eq=False)
class ContinuationsStage(Finding[list[Continuation]]):
    """Held-out prompts continued greedily, clean and with every site of the first seed patched.

    Attributes:
        role: whose network writes.
    """

    name = "continuations"
    version = 3
    """2 was keyed with its defaults."""

    role: Role
    dictionaries: DictionariesStage

    @classmethod
    def among(cls, study: Outline) -> Iterable["ContinuationsStage"]:
        return (cls(study.real.role.label, study.real.role, study.real.dictionaries),)

    def why_not(self, at: Worker) -> str:
        """Why no text is continued; empty where it is."""
        if at.config.evaluation.n_continuations == 0:
            return "`evaluation.n_continuations` is 0"
        if not at.network.predicts_tokens or at.network.tokenizer is None:
            return "the network does not predict the next token"
        short = at.context < PROMPT_TOKENS + NEW_TOKENS
        return f"windows of {at.context} tokens are too short" if short else ""

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {
            "network": at.base,
            "heldout": self.role.subject(at).tokens.heldout_key,
            "dictionaries": at.artifact(self.dictionaries).key,
        }

    def identity(self, at: Worker) -> dict[str, Any]:
        decides = {"continuations": identity(self._settings(at)), "seed": self.role.seeds[0]}
        return {**self.role.subject(at).identity, **decides}

    def work(self, at: Worker) -> Work:
        # Clean and patched, the window again for each new token.
        return Work(passed=2.0 * at.config.evaluation.n_continuations * NEW_TOKENS * (PROMPT_TOKENS + NEW_TOKENS))

    def make(self, folder: Path, at: Worker) -> None:
        subject, trained = self.role.subject(at), at.of(self.dictionaries)
        network, of_seed = subject.network, trained.of_seed(self.role.seeds[0])
        found = continue_text(
            network,
            subject.tokens.heldout,
            {subject.bindings[name]: d for name, d in on(network.device, of_seed).items()},
            trained_on=trained.statistics.trained_on,
            config=self._settings(at),
            reporter=at.reporter,
        )
        save_json(folder / "continuations.json", _LIST.dump_python(found, mode="json"))

    def load(self, artifact: Artifact, at: Worker) -> list[Continuation]:
        return artifact.parsed("continuations.json", _LIST.validate_python)

    def _settings(self, at: Worker) -> ContinuationConfig:
        n = at.config.evaluation.n_continuations
        return ContinuationConfig(n_prompts=n, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
