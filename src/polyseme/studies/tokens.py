"""The tokens stage: a corpus's train and held-out sides as windows."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyseme.corpora import (
    Windows,
    load_saved_windows,
    load_windows,
    save_windows,
    shuffle_within_document,
    uniform_tokens,
    unigram_tokens,
)
from polyseme.networks import Network
from polyseme.studies.bench import Bench
from polyseme.studies.check import check_tokens, study_context
from polyseme.studies.config import StudyConfig, TransformConfig

_TRANSFORMS: dict[str, Callable[[Windows, int, int], Windows]] = {
    "shuffle_within_document": lambda windows, _, seed: shuffle_within_document(windows, seed),
    "unigram": lambda windows, _, seed: unigram_tokens(windows, seed),
    "uniform": lambda windows, vocabulary, seed: uniform_tokens(windows, vocabulary, seed),
}


@dataclass(frozen=True)
class Tokens:
    """Both sides of a study's corpus.

    Attributes:
        train: windows that dictionaries are trained on.
        heldout: windows of other documents, that everything is measured on.
        key: of the artifact, with the transform.
    """

    train: Windows
    heldout: Windows
    key: str


def tokens_stage(study: StudyConfig, network: Network, bench: Bench) -> Tokens:
    """Tokenise and pack the study's corpus, and transform it where a control asks for that.

    Raises:
        InputError: the context is too long, the corpus is empty or too small, or holds tokens that the network does not
            embed.
    """
    tokenizer: Any = network.tokenizer
    config = study.tokens
    context = study_context(study, network)
    corpus: Any = study.corpus.build()
    plain = config.model_copy(update={"transform": None})
    stage_config = {"corpus": study.corpus, "tokens": plain.model_dump(exclude={"splice"}), "context": context}
    inputs = {"corpus": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer)}

    def make(folder: Path) -> None:
        for side, wanted in (("heldout", config.heldout), ("train", config.train)):
            progress = bench.reporter.task(f"tokenise {side}", wanted, "tokens")
            windows = load_windows(
                corpus,
                tokenizer,
                split="heldout" if side == "heldout" else "train",
                context=context,
                max_tokens=wanted,
                document_tokens=config.heldout_document_tokens if side == "heldout" else config.train_document_tokens,
                heldout_fraction=config.heldout_fraction,
                seed=config.seed,
                allow_fewer=config.allow_fewer,
                special_tokens=config.special_tokens,
                reporter=bench.reporter,
            )
            (folder / side).mkdir(exist_ok=True)
            save_windows(folder / side, windows)
            progress.update(windows.n_tokens, windows.n_tokens, f"{len(windows.names):,} documents")

    artifact = bench.stage("tokens", stage_config, inputs, make, version=2)
    train, heldout = (load_saved_windows(artifact.path / side) for side in ("train", "heldout"))
    check_tokens(network, max(int(side.tokens.max(initial=0)) for side in (train, heldout)), study.network.source)
    if config.transform is None:
        return Tokens(train, heldout, artifact.key)
    vocabulary = min(len(tokenizer), network.vocabulary or len(tokenizer))
    return Tokens(
        transformed(train, config.transform, vocabulary),
        transformed(heldout, config.transform, vocabulary),
        hashlib.sha256(f"{artifact.key}:{config.transform.fingerprint()}".encode()).hexdigest(),
    )


def transformed(windows: Windows, transform: TransformConfig, vocabulary: int) -> Windows:
    """The windows under a control's transform."""
    return _TRANSFORMS[transform.kind](windows, vocabulary, transform.seed)


def first_windows(windows: Windows, n_tokens: int) -> Windows:
    """The first windows that hold `n_tokens` counted tokens together, whole."""
    counts = (~windows.special).sum(axis=1).cumsum()
    n = min(len(windows), int((counts < n_tokens).sum()) + 1)
    return Windows(windows.tokens[:n], windows.document[:n], windows.special[:n], windows.names, windows.n_bytes)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary, rules and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())})
    return hashlib.sha256(f"{rules}\0{special}".encode()).hexdigest()
