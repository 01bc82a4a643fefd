"""The tokens stage: a corpus's train and held-out sides as windows."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from polyseme.core.progress import Progress, Reporter
from polyseme.corpora import (
    Split,
    Windows,
    load_saved_windows,
    load_windows,
    save_windows,
)
from polyseme.corpora.files import FileCorpus
from polyseme.networks import Network
from polyseme.nulls import Null, on_windows
from polyseme.store import Artifact, load_json, save_json
from polyseme.studies.check import check_tokens, study_context
from polyseme.studies.config import StudyConfig
from polyseme.studies.runner import Bench

_VERSION = 4
"""2 held both sides in one artifact, 3 no messages."""
_MESSAGES = "messages.json"
_PLACES = {"paths", "glob", "name", "subset", "revision", "download"}
"""Fields of corpora that decide nothing once the corpus's content is known."""
_OF_A_SIDE = {"train", "heldout", "splice", "train_document_tokens", "heldout_document_tokens", "context"}
"""Fields of the tokens' config that are about one side, or about what becomes of both."""


@dataclass(frozen=True)
class Tokens:
    """Both sides of a study's corpus.

    Attributes:
        train: windows that dictionaries are trained on.
        heldout: windows of other documents, that everything is measured on.
        train_key, heldout_key: hashes of what they hold. Stages rest on these and not on the settings that chose the
            windows, so that what leads to the same windows leads to the same artifacts.
    """

    train: Windows
    heldout: Windows
    train_key: str
    heldout_key: str

    @classmethod
    def of(cls, train: Windows, heldout: Windows) -> "Tokens":
        """Both sides with their hashes."""
        return cls(train, heldout, train.fingerprint, heldout.fingerprint)


def tokens_stage(study: StudyConfig, network: Network, bench: Bench) -> Tokens:
    """Tokenise and pack the study's corpus.

    Raises:
        InputError: the context is too long, the corpus is empty or too small, or holds tokens that the network does not
            embed.
    """
    tokenizer: Any = network.tokenizer
    context = study_context(study, network)
    corpus: Any = study.corpus.build()
    hashed = corpus.hashed(bench.reporter) if isinstance(corpus, FileCorpus) else corpus.fingerprint
    inputs = {"corpus": hashed, "tokenizer": tokenizer_fingerprint(tokenizer)}
    train, heldout = (_side(split, study, corpus, tokenizer, context, inputs, bench) for split in ("train", "heldout"))
    check_tokens(network, max(int(side.tokens.max(initial=0)) for side in (train, heldout)), study.network.source)
    return Tokens.of(train, heldout)


def under(null: Null | None, tokens: Tokens, network: Network) -> Tokens:
    """Both sides under a null; the same object where the null is of something else than tokens."""
    tokenizer: Any = network.tokenizer
    vocabulary = min(len(tokenizer), network.vocabulary or len(tokenizer))
    sides = [on_windows(null, side, vocabulary) for side in (tokens.train, tokens.heldout)]
    return tokens if sides[0] is tokens.train else Tokens.of(*sides)


def _side(
    split: Split,
    study: StudyConfig,
    corpus: Any,
    tokenizer: Any,
    context: int,
    inputs: dict[str, str],
    bench: Bench,
) -> Windows:
    """One side of the corpus, an artifact of its own: a change of the other side leaves it as it is."""
    config = study.tokens
    wanted = config.train if split == "train" else config.heldout
    of_document = config.train_document_tokens if split == "train" else config.heldout_document_tokens
    stage = {
        # What the corpus's own fingerprint says is left out: where it lies, and how it got there.
        "corpus": study.corpus.model_dump(mode="json", exclude=_PLACES),
        "tokens": config.model_dump(mode="json", exclude=_OF_A_SIDE),
        "split": split,
        "n_tokens": wanted,
        "document_tokens": of_document,
        "context": context,
    }

    said: list[str] = []

    def make(folder: Path) -> None:
        kept = _Kept(bench.reporter)
        progress = bench.reporter.task(f"tokenise {split}", wanted, "tokens")
        windows = load_windows(
            corpus,
            tokenizer,
            split=split,
            context=context,
            max_tokens=wanted,
            document_tokens=of_document,
            heldout_fraction=config.heldout_fraction,
            seed=config.seed,
            allow_fewer=config.allow_fewer,
            special_tokens=config.special_tokens,
            reporter=kept,
            progress=progress,
        )
        save_windows(folder, windows)
        save_json(folder / _MESSAGES, kept.messages)
        progress.update(windows.n_tokens, windows.n_tokens, f"{len(windows.names):,} documents")

    def load(artifact: Artifact) -> Windows:
        windows = load_saved_windows(artifact.path)
        said[:] = [str(message) for message in load_json(artifact.path / _MESSAGES)]
        return windows

    known = {record.key for record in bench.records}
    artifact, windows = bench.stage("tokens", stage, inputs, make, load, label=split, version=_VERSION)
    if bench.records[-1].reused and artifact.key not in known:
        # What is particular about the text is as true of a run that finds it tokenised.
        for message in said:
            bench.reporter.message(message)
    return windows


@final
class _Kept:
    """A reporter that passes everything on and keeps the messages."""

    def __init__(self, reporter: Reporter):
        self._reporter = reporter
        self.messages: list[str] = []

    def task(self, name: str, total: float, unit: str = "") -> Progress:
        return self._reporter.task(name, total, unit)

    def message(self, text: str) -> None:
        self.messages.append(text)
        self._reporter.message(text)


def first_windows(windows: Windows, n_tokens: int) -> Windows:
    """The first windows that hold `n_tokens` counted tokens together, whole, and the documents in them."""
    counts = (~windows.special).sum(axis=1).cumsum()
    n = min(len(windows), int((counts < n_tokens).sum()) + 1)
    document = windows.document[:n]
    n_documents = int(document.max(initial=-1)) + 1
    return Windows(
        tokens=windows.tokens[:n],
        document=document,
        special=windows.special[:n],
        names=windows.names[:n_documents],
        n_bytes=windows.n_bytes[:n_documents],
        spaced=None if windows.spaced is None else windows.spaced[:n],
    )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what decides how a tokenizer reads a corpus: vocabulary, rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (backend.truncation or backend.padding):  # of no effect on how a corpus is read
        backend = type(backend).from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())})
    template = getattr(tokenizer, "chat_template", None)
    declined = getattr(tokenizer, "init_kwargs", {}).get("add_bos_token") is False
    more = "" if template is None and not declined else f"\0{json.dumps(template)}\0{declined}"
    return hashlib.sha256(f"{rules}\0{special}{more}".encode()).hexdigest()
