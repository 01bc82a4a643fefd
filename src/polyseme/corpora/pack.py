"""Token windows: documents packed into rows of equal length, with every boundary known."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

PADDING = -1


@dataclass(frozen=True)
class Windows:
    """Rows of tokens ready for a network.

    Attributes:
        tokens: token ids; padding holds `pad_id`.
        document: for each token the index of its document in `names`, `PADDING` (-1) where there is none. The
            special token that opens a document or window belongs to the document it opens.
        special: True for BOS, separators and padding: left out of dictionary training and of all statistics.
        names: each document's name.
        n_bytes: UTF-8 bytes of each document that were packed (whole documents only lose bytes to a cap).
    """

    tokens: Int[np.ndarray, "window context"]
    document: Int[np.ndarray, "window context"]
    special: Bool[np.ndarray, "window context"]
    names: tuple[str, ...]
    n_bytes: Int[np.ndarray, " document"]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_tokens(self) -> int:
        """Tokens that count: neither special nor padding."""
        return int((~self.special).sum())


def pack(
    documents: Iterable[tuple[str, str]],
    encode: Callable[[list[str]], list[list[int]]],
    *,
    context: int,
    prefix: int | None,
    suffix: int | None = None,
    pad_id: int = 0,
    max_tokens: int | None = None,
    batch: int = 64,
) -> Windows:
    """Pack documents into windows of `context` tokens.

    Every window opens with `prefix` (BOS, CLS) where there is one, and closes with `suffix` (SEP) where there is
    one; a document that begins inside a window is preceded by `prefix` too. Only the last window is padded.

    Args:
        documents: (name, text) in order.
        encode: texts to token ids, without special tokens.
        context: tokens a window.
        prefix: id of the token that opens documents and windows, or None.
        suffix: id of the token that closes windows, or None.
        pad_id: id that fills the last window.
        max_tokens: stop once this many counted tokens are packed (the last window is filled up first).
        batch: documents encoded at a time.

    Raises:
        ValueError: `context` leaves no room for a token.
    """
    body = context - (suffix is not None)
    if body - (prefix is not None) < 1:
        raise ValueError(f"a context of {context} leaves no room for a token between the special ones")
    rows: list[tuple[list[int], list[int], list[bool]]] = []
    names: list[str] = []
    n_bytes: list[int] = []
    ids: list[int] = []
    docs: list[int] = []
    flags: list[bool] = []
    counted = 0

    def close() -> None:
        nonlocal ids, docs, flags
        last = docs[-1]
        if suffix is not None:
            ids, docs, flags = [*ids, suffix], [*docs, last], [*flags, True]
        gap = context - len(ids)
        rows.append((ids + [pad_id] * gap, docs + [PADDING] * gap, flags + [True] * gap))
        ids, docs, flags = [], [], []

    def open_with(index: int) -> None:
        if prefix is not None:
            ids.append(prefix)
            docs.append(index)
            flags.append(True)

    for name, text, encoded in _encoded(documents, encode, batch):
        index = len(names)
        names.append(name)
        n_bytes.append(len(text.encode("utf-8", "surrogatepass")))
        if ids and body - len(ids) <= (prefix is not None):
            close()
        open_with(index)
        at = 0
        while at < len(encoded):
            if not ids:
                open_with(index)
            take = min(body - len(ids), len(encoded) - at)
            ids += encoded[at : at + take]
            docs += [index] * take
            flags += [False] * take
            at, counted = at + take, counted + take
            if len(ids) == body:
                close()
                if max_tokens is not None and counted >= max_tokens:
                    break
        if max_tokens is not None and counted >= max_tokens:
            break
    if not all(flags):  # a row that holds no counted token is dropped
        close()
    return Windows(
        tokens=np.array([r[0] for r in rows], dtype=np.int32).reshape(-1, context),
        document=np.array([r[1] for r in rows], dtype=np.int32).reshape(-1, context),
        special=np.array([r[2] for r in rows], dtype=bool).reshape(-1, context),
        names=tuple(names),
        n_bytes=np.array(n_bytes, dtype=np.int64),
    )


def _encoded(
    documents: Iterable[tuple[str, str]], encode: Callable[[list[str]], list[list[int]]], batch: int
) -> Iterator[tuple[str, str, Sequence[int]]]:
    held: list[tuple[str, str]] = []
    for document in documents:
        held.append(document)
        if len(held) == batch:
            yield from ((n, t, e) for (n, t), e in zip(held, encode([t for _, t in held]), strict=True))
            held = []
    if held:
        yield from ((n, t, e) for (n, t), e in zip(held, encode([t for _, t in held]), strict=True))
