"""What corpora made of records share: the text of each, or a word on why there is none."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.corpora.document import Document, content_key

OnError = Literal["strict", "skip"]


@dataclass
class LeftOut:
    """What a pass over a corpus left out under `errors="skip"`: how many, and the first few by name."""

    count: int = 0
    reasons: list[str] = field(default_factory=list[str])

    def clear(self) -> None:
        """Start a new pass."""
        self.count = 0
        self.reasons.clear()

    def take(self, error: InputError, errors: OnError) -> None:
        """Count what `error` is about, or raise it under `errors="strict"`."""
        if errors == "strict":
            raise error
        self.count += 1
        if len(self.reasons) < 5:
            self.reasons.append(f"{error.where}: {error.what}")

    def report(self, reporter: Reporter) -> None:
        """Say it, where there is something to say."""
        if self.count:
            more = f" and {self.count - len(self.reasons)} more" if self.count > len(self.reasons) else ""
            reporter.message(f"left out {self.count} from the corpus: {'; '.join(self.reasons)}{more}")


def documents_of(
    records: Iterable[tuple[str, Callable[[], str]]], left_out: LeftOut, errors: OnError
) -> Iterator[Document]:
    """A document for every record with a text in it; blank texts are passed over.

    Args:
        records: (name, what gives the text or raises `InputError`).
        left_out: counts the records whose text cannot be had.
        errors: whether to go on after one.

    Raises:
        InputError: a text cannot be had, under `errors="strict"`; or `records` itself raises, under either.
    """
    for name, text_of in records:
        try:
            text = text_of()
        except InputError as error:
            left_out.take(error, errors)
            continue
        if text.strip():
            yield Document(name=name, key=content_key(text), text=text)


def check_text(value: object, column: str, where: str) -> str:
    """`value` when it is a string that UTF-8 can hold.

    Raises:
        InputError: it is something else, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise InputError(
            f"{column!r} holds {type(value).__name__}, not text", where=where, fix="name the field that holds the text"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"half of a surrogate pair at character {error.start}",
            where=where,
            fix='mend the text, or set `errors = "skip"` to leave it out',
        ) from None
    return value
