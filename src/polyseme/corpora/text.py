"""Text files and folders of them."""

import codecs
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from polyseme.core.config import Config
from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, content_key
from polyseme.corpora.files import FoundFile, LeftOut, OnError, files_fingerprint, find_files, not_utf8

_BLOCK = 1 << 20


class TextCorpus:
    """Text files in path order, read a block at a time; files of white space alone are left out."""

    def __init__(self, config: "TextCorpusConfig"):
        self.config = config
        self.left_out = LeftOut()

    @cached_property
    def files(self) -> list[FoundFile]:
        return find_files(self.config.paths, self.config.glob)

    @cached_property
    def fingerprint(self) -> str:
        return files_fingerprint(self.files, f"text {self.config.document_chars} {self.config.errors}")

    def documents(self) -> Iterator[Document]:
        self.left_out.clear()
        for file in self.files:
            if self.config.errors == "skip":
                try:
                    for _ in _decoded(file):  # a first pass, so that a file is taken whole or not at all
                        pass
                except InputError as error:
                    self.left_out.take(error, "skip")
                    continue
            pieces = _pieces(file, self.config.document_chars)
            for i, text in enumerate(pieces):
                if text.strip():
                    name = file.name if i == 0 else f"{file.name}#{i + 1}"
                    yield Document(name=name, key=content_key(text), text=text)


def _decoded(file: FoundFile) -> Iterator[str]:
    """The file's text, a block at a time, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
    fed = 0
    with file.path.open("rb") as opened:
        while True:
            block = opened.read(_BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # The decoder's object ends where this block ends; it begins with what was held back before.
                offset = fed + len(block) - len(error.object) + error.start
                raise not_utf8(str(file.path), offset, error.object[error.start]) from None
            fed += len(block)
            if text:
                yield text
            if not block:
                return


def _pieces(file: FoundFile, limit: int) -> Iterator[str]:
    """The file's text cut after the last line end within each `limit` characters (or at the limit, without one)."""
    held = ""
    for text in _decoded(file):
        held += text
        while len(held) > limit:
            cut = held.rfind("\n", 0, limit) + 1 or limit
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


class TextCorpusConfig(Config):
    """UTF-8 text files, and folders of them."""

    kind: Literal["text"] = "text"
    paths: tuple[Path, ...]
    """Files and folders."""
    glob: str = "**/*.txt"
    """Which files of a folder to read; `**/*` for all of them."""
    document_chars: int = Field(default=50_000, ge=1_000)
    """A longer file is cut at line ends into documents of at most this many characters, so that one large file can
    be split into train and held-out and resampled by document. Pieces of one file may fall on both sides; raise it
    above the longest file to keep every file whole."""
    errors: OnError = "strict"
    """What a file that is not UTF-8 does: `strict` stops with the place, `skip` leaves the file out and counts it."""

    def build(self) -> TextCorpus:
        """The corpus."""
        return TextCorpus(self)
