"""The tokens stage: a corpus's train and held-out sides as windows."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from polyseme.core.config import identity
from polyseme.core.progress import Progress, Reporter
from polyseme.corpora import (
    Split,
    Windows,
    load_saved_windows,
    load_windows,
    save_windows,
)
from polyseme.corpora.files import FileCorpus
from polyseme.nulls import Null
from polyseme.store import Artifact, load_json, save_json
from polyseme.studies.check import check_tokens
from polyseme.studies.config import TokensConfig
from polyseme.studies.stage import Stage, Work, Worker

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


@dataclass(frozen=True, eq=False)
class TokensStage(Stage[Windows]):
    """One side of the study's corpus, an artifact of its own: a change of the other side leaves it as it is."""

    name = "tokens"
    version = 5
    """2 held both sides in one artifact, 3 no messages; 4 was keyed with its defaults."""

    split: Split

    def inputs(self, at: Worker) -> Mapping[str, str]:
        def hashed() -> str:
            corpus = _corpus(at)
            return corpus.hashed(at.reporter) if isinstance(corpus, FileCorpus) else corpus.fingerprint

        tokenizer = at.once("tokenizer", lambda: tokenizer_fingerprint(at.network.tokenizer))
        return {"corpus": at.once("corpus's content", hashed), "tokenizer": tokenizer}

    def identity(self, at: Worker) -> dict[str, Any]:
        n_tokens, of_document = self._wanted(at.config.tokens)
        decides = {
            # What the corpus's own fingerprint says is left out: where it lies, and how it got there.
            "corpus": identity(at.config.corpus, exclude=_PLACES),
            "tokens": identity(at.config.tokens, exclude=_OF_A_SIDE),
            "split": self.split,
            "n_tokens": n_tokens,
            "context": at.context,
        }
        if of_document is not None:
            decides["document_tokens"] = of_document
        return decides | at.draw if self.split == "heldout" else decides

    def work(self, at: Worker) -> Work:
        n_tokens, _ = self._wanted(at.config.tokens)
        return Work(tokenised=n_tokens, disk=13.0 * n_tokens)

    def make(self, folder: Path, at: Worker) -> None:
        config = at.config.tokens
        n_tokens, of_document = self._wanted(config)
        tokenizer: Any = at.network.tokenizer
        kept = _Kept(at.reporter)
        progress = at.reporter.task(f"tokenise {self.split}", n_tokens, "tokens")
        windows = load_windows(
            _corpus(at),
            tokenizer,
            split=self.split,
            context=at.context,
            max_tokens=n_tokens,
            document_tokens=of_document,
            heldout_fraction=config.heldout_fraction,
            seed=config.seed if self.split == "train" else at.seed(config.seed),
            allow_fewer=config.allow_fewer,
            special_tokens=config.special_tokens,
            reporter=kept,
            progress=progress,
        )
        save_windows(folder, windows)
        save_json(folder / _MESSAGES, kept.messages)
        progress.update(windows.n_tokens, windows.n_tokens, f"{len(windows.names):,} documents")

    def load(self, artifact: Artifact, at: Worker) -> Windows:
        windows = load_saved_windows(artifact.path)
        if at.recorded is None:
            check_tokens(at.network, int(windows.tokens.max(initial=0)), at.config.network.source)
        return windows

    def remarks(self, artifact: Artifact) -> list[str]:
        """What is particular about the text."""
        return [str(message) for message in load_json(artifact.path / _MESSAGES)]

    def _wanted(self, config: TokensConfig) -> tuple[int, int | None]:
        if self.split == "train":
            return config.train, config.train_document_tokens
        return config.heldout, config.heldout_document_tokens


def _corpus(at: Worker) -> Any:
    return at.once("corpus", at.config.corpus.build)


def under(null: Null | None, tokens: Tokens, at: Worker) -> Tokens:
    """Both sides under a null; the same object where the null is of something else than tokens."""
    if null is None or null.targets != "tokens":
        return tokens
    tokenizer: Any = at.network.tokenizer
    vocabulary = min(len(tokenizer), at.network.vocabulary or len(tokenizer))
    return Tokens.of(*(null.windows(side, vocabulary) for side in (tokens.train, tokens.heldout)))


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
    return _windows_at(windows, slice(0, _windows_of(windows, n_tokens)))


def drawn_windows(windows: Windows, n_tokens: int, seed: int) -> Windows:
    """As many windows in a row as the first that hold `n_tokens`, from a place that `seed` decides."""
    n = _windows_of(windows, n_tokens)
    start = seed % (len(windows) - n + 1)
    return _windows_at(windows, slice(start, start + n))


def _windows_of(windows: Windows, n_tokens: int) -> int:
    counts = (~windows.special).sum(axis=1).cumsum()
    return min(len(windows), int((counts < n_tokens).sum()) + 1)


def _windows_at(windows: Windows, rows: slice) -> Windows:
    document = windows.document[rows]
    n_documents = int(document.max(initial=-1)) + 1
    return Windows(
        tokens=windows.tokens[rows],
        document=document,
        special=windows.special[rows],
        names=windows.names[:n_documents],
        n_bytes=windows.n_bytes[:n_documents],
        spaced=None if windows.spaced is None else windows.spaced[rows],
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
