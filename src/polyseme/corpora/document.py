"""Documents and their deterministic split into train and held-out."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from polyseme.core.errors import InputError, nearest_names

Split = Literal["train", "heldout"]
Form = Literal["text", "ids", "messages"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus.

    Attributes:
        name: where it comes from (a relative path, `file.jsonl:12`), for people.
        key: what decides its split: its content's hash unless the corpus says otherwise.
        text: the text itself; of token ids and of chat messages their JSON.
        form: which of the three it is.
    """

    name: str
    key: str
    text: str
    form: Form = "text"


@runtime_checkable
class Corpus(Protocol):
    """A source of documents in a fixed order."""

    @property
    def fingerprint(self) -> str:
        """Changes when the documents do."""
        ...

    def documents(self) -> Iterator[Document]:
        """Every document, the same order each time."""
        ...


def content_key(text: str) -> str:
    """A document's default key: SHA-256 of its UTF-8 text, so that copies fall on the same side of a split."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def split_of(key: str, heldout_fraction: float) -> Split:
    """The side of the split a document with this key falls on, whatever else the corpus holds.

    The key's hash is a uniform number in [0, 1); below `heldout_fraction` is held out.
    """
    digest = hashlib.sha256(f"polyseme-split-v1:{key}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") / 2**64 < heldout_fraction else "train"


def missing_field(name: str, known: list[str], *, where: str, what: str) -> InputError:
    """The error for a field, column or split that is not there, with the nearest names and all of them."""
    known = [entry if len(entry) <= 80 else f"{entry[:80]}…" for entry in known]  # a stranger's keys have any length
    near = nearest_names(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    there = ", ".join(known[:20]) or "none"
    return InputError(f"there is no {what} {name!r}", where=where, fix=f"{hint}There are: {there}".strip())


def missing_extra(package: str, what: str) -> InputError:
    """The error for an optional dependency that is not installed."""
    return InputError(f"{what} need the package {package!r}", fix="pip install 'polyseme[data]'")


def first_line(error: Exception, limit: int = 200) -> str:
    """The first line of what a library says of an error, or the error's type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
