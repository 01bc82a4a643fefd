"""Data sets of the `datasets` library: by local path, or by hub name where a download is asked for."""

import hashlib
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from polyseme.core.config import Config, Count, Location, Name
from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, missing_extra, missing_field
from polyseme.corpora.records import LeftOut, OnError, check_text, documents_of


class HuggingFaceCorpus:
    """The rows of one split in order, memory-mapped by `datasets`; nulls and blank texts are left out."""

    def __init__(self, config: "HuggingFaceCorpusConfig"):
        self.config = config
        self.left_out = LeftOut()

    @cached_property
    def dataset(self) -> Any:
        """The split, with only the text column."""
        split = _load(self.config)
        names: list[str] = list(split.column_names)
        if self.config.column not in names:
            raise missing_field(self.config.column, names, where=self._where, what="column")
        return split.select_columns([self.config.column])

    @property
    def _where(self) -> str:
        return f"{self.config.name}, split {self.config.split!r}"

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"huggingface {self.config.errors}".encode())
        for row, value in self._rows():
            text = value if isinstance(value, str) else repr(value)
            digest.update(f"\0{row}\0".encode() + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        self.left_out.clear()
        records = (
            (f"{self.config.split}:{row}", partial(check_text, value, self.config.column, f"{self._where}, row {row}"))
            for row, value in self._rows()
        )
        return documents_of(records, self.left_out, self.config.errors)

    def _rows(self) -> Iterator[tuple[int, object]]:
        values = (value for rows in self.dataset.iter(batch_size=256) for value in rows[self.config.column])
        limited = enumerate(islice(values, self.config.max_documents))
        return ((row, value) for row, value in limited if value is not None)


def _load(config: "HuggingFaceCorpusConfig") -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise missing_extra("datasets", "Hugging Face data sets") from None
    path = Path(config.name).expanduser()
    if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        try:
            loaded: Any = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"the data set cannot be read ({error})", where=str(path), fix="save it again") from error
        if isinstance(loaded, datasets.DatasetDict):
            if config.split not in loaded:
                raise missing_field(config.split, [str(name) for name in loaded], where=str(path), what="split")
            return loaded[config.split]
        return loaded
    if not path.exists() and not config.download:
        raise InputError(
            f"there is no data set at the path {config.name!r}, and downloads are off",
            where="corpus.name",
            fix="set `download = true` if it is a hub name, or correct the path",
        )
    source = str(path) if path.exists() else config.name
    try:
        return datasets.load_dataset(source, config.subset, split=config.split, revision=config.revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(
            f"the data set cannot be loaded ({error})",
            where=f"{config.name}, split {config.split!r}",
            fix="check the name, `subset` and `split`, and for a hub name the connection",
        ) from error


class HuggingFaceCorpusConfig(Config):
    """A data set of the `datasets` library, by local path or hub name (needs the `data` extra)."""

    kind: Literal["huggingface"] = "huggingface"
    name: Location
    """A folder written by `save_to_disk` or holding data files, or a name on the hub."""
    subset: Name | None = None
    """The hub's configuration of the data set, where it has several."""
    split: Name = "train"
    """The data set's own split to read; polyseme makes its train and held-out sides out of this one."""
    column: Name = "text"
    """The column that holds the text."""
    revision: Name | None = None
    """Branch, tag or commit on the hub; name a commit for a study that can be repeated."""
    download: bool = False
    """Allow the network for a hub name; off, only local paths are read."""
    max_documents: Count | None = None
    """Read at most this many rows, from the start; None for all."""
    errors: OnError = "strict"
    """What a bad value does: `strict` stops with its row, `skip` leaves it out and counts it."""

    def build(self) -> HuggingFaceCorpus:
        """The corpus."""
        return HuggingFaceCorpus(self)
