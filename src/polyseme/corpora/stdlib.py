"""The embedded default corpus: the source of the running Python's own standard library."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from polyseme.core.config import Config
from polyseme.corpora.document import Document
from polyseme.corpora.opening import opened

_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}


class StdlibCorpus:
    """Every `.py` file of the standard library, in path order; files that are not UTF-8 are left out.

    Keys are relative paths, not contents: a module that changed between two Python versions stays on its side of
    the split, so a network trained on one version is never tested on its own training files under another.
    """

    def __init__(self, root: Path):
        self.root = root

    @cached_property
    def files(self) -> list[Path]:
        found: list[Path] = []
        for folder, inner, names in os.walk(self.root):
            # What is installed beside the library can be many times as large: it is not walked through.
            inner[:] = [name for name in inner if name not in _LEFT_OUT]
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        return sorted(path for path in found if path.is_file())

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(f"{path.relative_to(self.root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(_bytes(path)).digest())
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        for path in self.files:
            try:
                text = _bytes(path).decode("utf-8")
            except UnicodeDecodeError:  # the library's own tests hold files in other encodings on purpose
                continue
            if text.strip():
                name = path.relative_to(self.root).as_posix()
                yield Document(name=name, key=f"stdlib:{name}", text=text)


def _bytes(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


class StdlibCorpusConfig(Config):
    """The standard library of the running Python (tens of MB of real code on every machine)."""

    kind: Literal["stdlib"] = "stdlib"

    def build(self) -> StdlibCorpus:
        return StdlibCorpus(Path(sysconfig.get_paths()["stdlib"]))
