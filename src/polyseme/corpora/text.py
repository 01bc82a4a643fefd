"""Text files and folders of them."""

import codecs
from collections.abc import Iterator
from functools import partial
from typing import Literal

from pydantic import Field

from polyseme.core.config import Config, FilePaths
from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, content_key
from polyseme.corpora.files import FileCorpus, FoundFile, Glob
from polyseme.corpora.opening import not_utf8, opened_text
from polyseme.corpora.records import LeftOut, OnError

_BLOCK = 1 << 20


def _documents(config: "TextCorpusConfig", file: FoundFile, left_out: LeftOut) -> Iterator[Document]:
    """The file's pieces, read a block at a time; those of white space alone are passed over."""
    if config.errors == "skip":
        try:
            for _ in _decoded(file):  # a first pass, so that a file is taken whole or not at all
                pass
        except InputError as error:
            left_out.take(error)
            return
    for i, text in enumerate(_pieces(file, config.document_chars)):
        if text.strip():
            name = file.name if i == 0 else f"{file.name}#{i + 1}"
            yield Document(name=name, key=content_key(text), text=text)


def _decoded(file: FoundFile) -> Iterator[str]:
    """The file's text, a block at a time, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
    fed = 0
    with opened_text(file.path) as source:
        while True:
            block = source.read(_BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # The decoder's object ends where this block ends; it begins with what was held back before.
                offset = fed + len(block) - len(error.object) + error.start
                raise not_utf8(str(file.path), offset, error.object, error.start) from None
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
    """UTF-8 text files, also compressed by gzip, bzip2, xz or zstd, and folders of them."""

    kind: Literal["text"] = "text"
    paths: FilePaths
    """Files and folders to read."""
    glob: Glob = "**/*.txt"
    """Which files of a folder to read; `**/*` for all of them, `**/*.txt.gz` for compressed ones."""
    document_chars: int = Field(default=50_000, ge=1_000, le=10**8)
    """A longer file is cut at line ends into documents of at most this many characters, so that one large file can
    be split into train and held-out and resampled by document. Pieces of one file may fall on both sides; a value
    above the length of the longest file keeps every file whole."""
    errors: OnError = "strict"
    """What happens at a file that is not UTF-8: `strict` stops and names the place, `skip` leaves the file out and
    counts it."""

    def build(self) -> FileCorpus:
        """The corpus."""
        options = f"text {self.document_chars} {self.errors}"
        read = partial(_documents, self)
        return FileCorpus(self.paths, self.glob, read, options, left_out=LeftOut(self.errors))
