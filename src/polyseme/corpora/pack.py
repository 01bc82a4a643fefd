"""Token windows: documents packed into rows of equal length, with every boundary known."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.corpora.encoding import Encoded
from polyseme.store import load_json, save_array, save_json

PADDING = -1
_ARRAYS = ("tokens", "document", "special", "n_bytes")


@dataclass(frozen=True)
class Windows:
    """Rows of tokens ready for a network.

    Attributes:
        tokens: token ids; padding holds `pad_id`.
        document: for each token the index of its document in `names`, `PADDING` (-1) where there is none. The
            special token that opens a document or window belongs to the document it opens.
        special: True where packing put BOS, a separator or padding, and for control tokens that a text spells out: left
            out of dictionary training and of all statistics.
        names: each document's name.
        n_bytes: UTF-8 bytes of each document that were packed; of the document that a cap cuts short, its share by
            tokens.
        spaced: True where white space that no token holds stands before a token; None where tokens hold their own.
    """

    tokens: Int[np.ndarray, "window context"]
    document: Int[np.ndarray, "window context"]
    special: Bool[np.ndarray, "window context"]
    names: tuple[str, ...]
    n_bytes: Int[np.ndarray, " document"]
    spaced: Bool[np.ndarray, "window context"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_tokens(self) -> int:
        """Tokens that count: neither special nor padding."""
        return int((~self.special).sum())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the arrays and names."""
        digest = hashlib.sha256(json.dumps([self.names, self.tokens.shape]).encode())
        spaced = () if self.spaced is None else (self.spaced,)
        for array in (self.tokens, self.document, self.special, self.n_bytes, *spaced):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def save_windows(folder: Path, windows: Windows) -> None:
    """Write windows as `.npy` files and `windows.json`, each complete or not at all."""
    for name in _ARRAYS:
        save_array(folder / f"{name}.npy", getattr(windows, name))
    if windows.spaced is not None:
        save_array(folder / "spaced.npy", windows.spaced)
    save_json(folder / "windows.json", {"names": list(windows.names), "fingerprint": windows.fingerprint})


def load_saved_windows(folder: Path) -> Windows:
    """Read what `save_windows` wrote.

    Raises:
        DamagedArtifact: a file is missing, cut short or changed.
    """
    try:
        saved = load_json(folder / "windows.json")
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
        if (folder / "spaced.npy").exists():
            arrays["spaced"] = np.load(folder / "spaced.npy", allow_pickle=False)
        windows = Windows(names=tuple(saved["names"]), **arrays)
        if windows.fingerprint != saved["fingerprint"]:
            raise ValueError("the checksum differs")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DamagedArtifact(
            f"the saved windows cannot be read ({error})", where=str(folder), fix="delete the folder and run again"
        ) from error
    return windows


class _Rows:
    """Rows under construction, held as arrays (ten bytes a token)."""

    def __init__(self, context: int, opening: Sequence[int], closing: Sequence[int], pad_id: int):
        self.context, self.opening, self.closing, self.pad_id = context, opening, closing, pad_id
        self.body = context - len(closing)
        self.tokens: list[np.ndarray] = []
        self.document: list[np.ndarray] = []
        self.special: list[np.ndarray] = []
        self.spaced: list[np.ndarray] = []
        self.used = 0
        """Places taken in the row being filled, 0 when no row is."""

    @property
    def room(self) -> int:
        return self.body - self.used

    def open(self, document: int) -> None:
        """Start a row where there is none, and put what opens `document`."""
        if not self.used:
            self.tokens.append(np.full(self.context, self.pad_id, dtype=np.int32))
            self.document.append(np.full(self.context, PADDING, dtype=np.int32))
            self.special.append(np.ones(self.context, dtype=bool))
            self.spaced.append(np.zeros(self.context, dtype=bool))
        self._put(self.opening, document)

    def put(self, ids: np.ndarray, special: np.ndarray, spaced: "np.ndarray | bool", document: int) -> None:
        self.special[-1][self.used : self.used + len(ids)] = special
        self.spaced[-1][self.used : self.used + len(ids)] = spaced
        self._put(ids, document)

    def _put(self, ids: "np.ndarray | Sequence[int]", document: int) -> None:
        end = self.used + len(ids)
        self.tokens[-1][self.used : end] = ids
        self.document[-1][self.used : end] = document
        self.used = end

    def close(self) -> None:
        """Finish the row; one in which nothing counts is left out."""
        self._put(self.closing, int(self.document[-1][self.used - 1]))
        self.used = 0
        if self.special[-1].all():
            for rows in (self.tokens, self.document, self.special, self.spaced):
                rows.pop()

    def stacked(self, rows: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.stack(rows) if rows else np.empty((0, self.context), dtype=dtype)


def pack(
    documents: Iterable[tuple[str, str]],
    encode: Callable[[list[str]], Sequence[Sequence[int]]],
    *,
    context: int,
    prefix: int | None,
    suffix: int | None = None,
    pad_id: int = 0,
    max_tokens: int | None = None,
    batch: int = 64,
) -> Windows:
    """Encode documents and pack them into windows of `context` tokens; every token of a text counts.

    Args:
        documents: (name, text) in order.
        encode: texts to token ids, without special tokens.
        context: tokens a window.
        prefix: id of the token that opens documents and windows, or None.
        suffix: id of the token that closes windows, or None.
        pad_id: id that fills the last window.
        max_tokens: stop once this many counted tokens are packed and their window is full.
        batch: documents encoded at a time.

    Raises:
        InputError: `context` leaves no room for a token.
    """
    return pack_encoded(
        _encoded(documents, encode, batch),
        context=context,
        opening=() if prefix is None else (prefix,),
        closing=() if suffix is None else (suffix,),
        pad_id=pad_id,
        max_tokens=max_tokens,
    )


def pack_encoded(
    documents: Iterable[Encoded],
    *,
    context: int,
    opening: Sequence[int],
    closing: Sequence[int] = (),
    pad_id: int = 0,
    max_tokens: int | None = None,
) -> Windows:
    """Pack documents into windows of `context` tokens.

    Every window starts with `opening` (BOS, CLS) where there is any, and ends with `closing` (SEP) where there is any;
    a document that begins inside a window is preceded by `opening` too. Only the last window is padded, but for the
    end of a window where nothing but the next document's `opening` would fit. A document that encodes to nothing
    takes no place, and a window in which no token counts is left out.

    Args:
        documents: in order.
        context: tokens a window.
        opening: ids that open documents and windows.
        closing: ids that close windows.
        pad_id: id that fills the last window.
        max_tokens: stop once this many counted tokens are packed and their window is full.

    Raises:
        InputError: `context` leaves no room for a token.
    """
    rows = _Rows(context, opening, closing, pad_id)
    if rows.body - len(opening) < 1:
        raise InputError(
            f"a context of {context} leaves no room for a token between the special ones", fix="raise the context"
        )
    names: list[str] = []
    n_bytes: list[int] = []
    counted, full, spaces_known = 0, False, True
    for document in documents:
        index, at = len(names), 0
        n_ids = len(document.ids)
        while at < n_ids and not full:
            rows.open(index)
            piece = slice(at, at + rows.room)
            special = document.special[piece]
            rows.put(document.ids[piece], special, False if document.spaced is None else document.spaced[piece], index)
            at, counted = at + len(special), counted + int((~special).sum())
            if rows.room <= len(opening):  # at most the next document's opening would fit
                rows.close()
                full = max_tokens is not None and counted >= max_tokens
        spaces_known &= document.spaced is not None
        names.append(document.name)
        n_bytes.append(document.n_bytes if at == n_ids else round(document.n_bytes * at / n_ids))
        if full:
            break
    if rows.used:
        rows.close()
    return Windows(
        tokens=rows.stacked(rows.tokens, np.int32),
        document=rows.stacked(rows.document, np.int32),
        special=rows.stacked(rows.special, bool),
        names=tuple(names),
        n_bytes=np.array(n_bytes, dtype=np.int64),
        spaced=rows.stacked(rows.spaced, bool) if names and spaces_known else None,
    )


def _encoded(
    documents: Iterable[tuple[str, str]], encode: Callable[[list[str]], Sequence[Sequence[int]]], batch: int
) -> Iterator[Encoded]:
    waiting = iter(documents)
    while held := list(islice(waiting, batch)):
        for (name, text), found in zip(held, encode([text for _, text in held]), strict=True):
            ids = np.asarray(found, dtype=np.int32)
            size = len(text.encode("utf-8", "surrogatepass"))
            yield Encoded(name, ids, np.zeros(len(ids), dtype=bool), size)
