"""What corpora made of records share: the document in each, or a word on why there is none."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.corpora.document import Document, Form, content_key, missing_field

OnError = Literal["strict", "skip"]
MAX_ID = 2**31 - 1


@dataclass
class LeftOut:
    """What becomes of what cannot be read, and what a pass over a corpus left out: how many, the first few by name."""

    errors: OnError = "strict"
    count: int = 0
    reasons: list[str] = field(default_factory=list[str])

    def clear(self) -> None:
        """Start a new pass."""
        self.count = 0
        self.reasons.clear()

    def take(self, error: InputError) -> None:
        """Count what `error` is about, or raise it under `errors="strict"`."""
        if self.errors == "strict":
            raise error
        self.count += 1
        if len(self.reasons) < 5:
            self.reasons.append(f"{error.where}: {error.what}")

    def report(self, reporter: Reporter) -> None:
        """Report what was left out, if anything was."""
        if self.count:
            more = f" and {self.count - len(self.reasons)} more" if self.count > len(self.reasons) else ""
            reporter.message(f"left out {self.count} from the corpus: {'; '.join(self.reasons)}{more}")


class Content(NamedTuple):
    """What a record holds: a text, or the JSON of token ids or of chat messages."""

    text: str
    form: Form = "text"


Found = Content | InputError | None
"""What was found in a record: its content, why it has none, or a null."""
Named = tuple[str, Found]
"""A record by its name."""


def documents_of(records: Iterable[Named], left_out: LeftOut) -> Iterator[Document]:
    """A document for every record with something in it; blank texts are passed over.

    Args:
        records: what was found under each name.
        left_out: raises or counts the records that have no content.

    Raises:
        InputError: a record has no content, under `errors="strict"`; or `records` itself raises, under either.
    """
    for name, found in records:
        if isinstance(found, InputError):
            left_out.take(found)
        elif found is not None and found.text.strip():
            yield Document(name, content_key(found.text), *found)


def attempt(content: Callable[[], Content | None]) -> Found:
    """The content, or the `InputError` that was raised in its place."""
    try:
        return content()
    except InputError as error:
        return error


_MISSING: Any = object()
Inside = Callable[[Any], Mapping[str, Any] | None]
"""The fields of a record that is a field of another; None for what is no record."""


def _inside(value: Any) -> Mapping[str, Any] | None:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else None


def value_at(record: Mapping[str, Any], path: str, *, where: str, what: str, inside: Inside = _inside) -> Any:
    """What a record holds under a name, or under names within each other joined by dots (`data.text`).

    Args:
        record: names to values, or to types.
        path: the name.
        where: the record, for errors.
        what: what errors call a name: a field, a column.
        inside: the fields of a value that is a record itself.

    Raises:
        InputError: nothing is there.
    """
    found = _value_at(record, path, inside)
    if found is _MISSING:
        raise missing_field(path, field_names(record, inside), where=where, what=what)
    return found


def _value_at(record: Mapping[str, Any], path: str, inside: Inside) -> Any:
    if path in record:
        return record[path]
    head = path
    while (cut := head.rfind(".")) >= 0:
        head = path[:cut]
        if head in record and record[head] is None:
            return None
        if head in record and (inner := inside(record[head])) is not None:
            found = _value_at(inner, path[cut + 1 :], inside)
            if found is not _MISSING:
                return found
    return _MISSING


def field_names(record: Mapping[str, Any], inside: Inside = _inside, depth: int = 3) -> list[str]:
    """The names of a record's fields, those within others joined by dots."""
    names: list[str] = []
    for name, value in record.items():
        inner = inside(value) if depth > 1 else None
        names += [name] if not inner else [f"{name}.{below}" for below in field_names(inner, inside, depth - 1)]
        if len(names) > 100:
            break
    return names


def content_of(value: object, column: str, where: str) -> Content | None:
    """A record's value as a document's content; None for a null.

    A string is a text, a list of integers is token ids, and a list of records with `role` and `content` is a chat.

    Raises:
        InputError: it is none of these, or holds half of a surrogate pair.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return Content(_sayable(value, where))
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        items = cast(Sequence[object], value)
        if all(type(item) is int for item in items):
            return _ids(cast(Sequence[int], items), column, where) if items else None
        if all(isinstance(item, Mapping) for item in items):
            return _messages(cast(Sequence[Mapping[str, object]], items), column, where)
        kinds = ", ".join(sorted({type(item).__name__ for item in items})[:3])
        raise _no_text(column, f"a list of {kinds}", where)
    if isinstance(value, Mapping):
        inner = field_names(cast(Mapping[str, Any], value))
        raise InputError(
            f"{column!r} holds a record, not text",
            where=where,
            fix=f"name one of its fields: {', '.join(f'{column}.{name}' for name in inner[:8])}",
        )
    raise _no_text(column, type(value).__name__, where)


def _no_text(column: str, kind: str, where: str) -> InputError:
    return InputError(
        f"{column!r} holds {kind}, not text",
        where=where,
        fix="name a field of texts, of lists of token ids, or of lists of chat messages with `role` and `content`",
    )


def _sayable(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"half of a surrogate pair at character {error.start}",
            where=where,
            fix='correct the text, or set `errors = "skip"` to leave it out',
        ) from None
    return text


def _ids(ids: Sequence[int], column: str, where: str) -> Content:
    bad = next((i for i in ids if not 0 <= i <= MAX_ID), None)
    if bad is not None:
        raise InputError(
            f"{column!r} holds {bad}, which is no token id", where=where, fix="name the column of token ids"
        )
    return Content(json.dumps(ids, separators=(",", ":")), "ids")


def _messages(messages: Sequence[Mapping[str, object]], column: str, where: str) -> Content:
    for message in messages:
        if not isinstance(message.get("role"), str) or "content" not in message:
            names = ", ".join(map(repr, list(message)[:6])) or "nothing"
            raise InputError(
                f"{column!r} holds a list of records with {names}; a chat message has 'role' and 'content'",
                where=where,
                fix="rename the fields, or write the chat as text and name that column",
            )
    # Tables hold a null for every field that only some messages have.
    kept = [{name: part for name, part in message.items() if part is not None} for message in messages]
    try:
        return Content(_sayable(json.dumps(kept, ensure_ascii=False), where), "messages")
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{column!r} holds messages that are no JSON ({error})", where=where, fix="write the chat as text"
        ) from None
