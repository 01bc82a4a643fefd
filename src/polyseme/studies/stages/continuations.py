"""The continuations stage: text written by the clean and by the jointly patched network."""

from pathlib import Path

from pydantic import TypeAdapter

from polyseme.evaluation import Continuation, ContinuationConfig, continue_text
from polyseme.store import Artifact, save_json
from polyseme.studies.config import NEW_TOKENS, PROMPT_TOKENS
from polyseme.studies.runner import Bench
from polyseme.studies.subject import Subject, Trained, on

_LIST = TypeAdapter(list[Continuation])


def continuations_stage(subject: Subject, trained: Trained, bench: Bench) -> list[Continuation]:
    """Held-out prompts continued greedily, clean and with every site of the first seed patched; empty if not asked."""
    study, network = subject.study, subject.network
    n, seed = study.evaluation.n_continuations, study.seeds[0]
    context = subject.tokens.heldout.tokens.shape[1]
    if n == 0 or not network.predicts_tokens or network.tokenizer is None or context < PROMPT_TOKENS + NEW_TOKENS:
        return []
    settings = ContinuationConfig(n_prompts=n, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
    inputs = {
        "network": subject.base,
        "heldout": subject.tokens.heldout_key,
        "dictionaries": trained.artifact.key,
    }

    def make(folder: Path) -> None:
        patched = {subject.sites[name]: d for name, d in on(network.device, trained.of_seed(seed)).items()}
        found = continue_text(
            network,
            subject.tokens.heldout,
            patched,
            trained_on=trained.statistics.trained_on,
            config=settings,
            reporter=bench.reporter,
        )
        save_json(folder / "continuations.json", _LIST.dump_python(found, mode="json"))

    stage = {**subject.identity, "continuations": settings, "seed": seed}

    def load(artifact: Artifact) -> list[Continuation]:
        return artifact.parsed("continuations.json", _LIST.validate_python)

    return bench.stage("continuations", stage, inputs, make, load, label=subject.label, version=2)[1]
