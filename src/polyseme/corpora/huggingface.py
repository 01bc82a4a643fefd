"""Data sets of the `datasets` library: by local path, or by hub name where downloads are allowed."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from polyseme.core.config import Config, Count, Location, Name
from polyseme.core.errors import InputError
from polyseme.corpora.arrow import check_column_kind, check_plain_arrow, contents
from polyseme.corpora.document import Document, first_line, missing_extra, missing_field
from polyseme.corpora.opening import ROW_BYTES, UNPACKED_FREELY, UNPACKED_RATIO, check_unpacks, opened
from polyseme.corpora.parquet import check_parquet
from polyseme.corpora.records import LeftOut, Named, OnError, documents_of

_ROWS = 64
_READERS = ("arrow", "csv", "json", "parquet", "text")
"""Readers of the library that read tables and texts and nothing else: no archives, no pickles."""
_STATE = 16 * 2**20
"""Most bytes of a saved data set's state that are read."""
_OLDEST = 4
"""Major version of `datasets` from which it runs no code that comes with a data set."""


class HuggingFaceCorpus:
    """The rows of one split in order, memory-mapped by `datasets`; nulls and blank texts are left out."""

    def __init__(self, config: "HuggingFaceCorpusConfig"):
        self.config = config
        self.left_out = LeftOut(config.errors)

    @cached_property
    def dataset(self) -> Any:
        """The split, with only the column of the text, as Arrow tables."""
        split, size = _load(self.config)
        if split.num_rows * ROW_BYTES > max(UNPACKED_FREELY, UNPACKED_RATIO * size):
            raise InputError(f"{size:,} bytes hold {split.num_rows:,} rows", where=self._where, fix="save it again")
        column = self.config.column
        check_column_kind(split.data.schema, column, self._where)
        names: list[str] = list(split.column_names)
        heads = [name for name in names if column == name or column.startswith(f"{name}.")]
        self._size = size
        return split.select_columns([max(heads, key=len)]).with_format("arrow")

    @property
    def _where(self) -> str:
        return f"{self.config.name}, split {self.config.split!r}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every row."""
        digest = hashlib.sha256(f"huggingface {self.config.errors}".encode())
        for name, found in self._records():
            if isinstance(found, InputError):
                said = f"error\0{found.what}"
            else:
                said = "" if found is None else f"{found.form}\0{found.text}"
            digest.update(f"\0{name}\0".encode() + hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """Every document in the order of the rows."""
        self.left_out.clear()
        return documents_of(self._records(), self.left_out)

    def _records(self) -> Iterator[Named]:
        dataset = self.dataset
        rows = contents(
            dataset.iter(batch_size=_ROWS),
            self.config.column,
            size=self._size,
            place=lambda row: f"{self._where}, row {row - 1}",
            name=lambda row: f"{self.config.split}:{row - 1}",
        )
        return islice(rows, self.config.max_documents)


def _load(config: "HuggingFaceCorpusConfig") -> tuple[Any, int]:
    """The split, and the bytes of the files it is in."""
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "Hugging Face data sets") from None
    if int(datasets.__version__.partition(".")[0]) < _OLDEST:
        raise InputError(
            f"version {datasets.__version__} of `datasets` runs code that comes with a data set",
            where="corpus.kind",
            fix=f"pip install 'datasets>={_OLDEST}'",
        )
    path = Path(config.name).expanduser()
    where = f"{config.name}, split {config.split!r}"
    try:
        if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return _saved(datasets, path, config)
        if path.exists() and not path.is_dir():
            raise InputError(
                "this is a file, not the folder of a data set",
                where=str(path),
                fix='name its folder, or set `kind` to "jsonl", "parquet" or "text" and `paths` to the file',
            )
        if not path.exists() and not config.download:
            raise InputError(
                f"there is no data set at the path {config.name!r}, and downloads are off",
                where="corpus.name",
                fix="set `download = true` if it is a hub name, or correct the path",
            )
        return _built(datasets, path if path.exists() else None, config)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the data set cannot be loaded ({first_line(error, 300)})",
            where=where,
            fix="check the name, `subset` and `split`, and for a hub name the connection",
        ) from error


def _saved(datasets: Any, folder: Path, config: "HuggingFaceCorpusConfig") -> tuple[Any, int]:
    """A split that `save_to_disk` wrote."""
    files = list(_saved_files(folder))
    for path in files:
        check_plain_arrow(path)
    loaded = datasets.load_from_disk(str(folder), keep_in_memory=False)
    if isinstance(loaded, datasets.DatasetDict):
        if config.split not in loaded:
            raise missing_field(config.split, [str(name) for name in loaded], where=str(folder), what="split")
        loaded = loaded[config.split]
    return loaded, sum(path.stat().st_size for path in files)


def _saved_files(folder: Path) -> Iterator[Path]:
    """The Arrow files that the states of a saved data set name, all of them in its folder."""
    for state in sorted(folder.rglob("state.json")):
        with opened(state) as file:
            about = json.loads(file.read(_STATE))
        for entry in about["_data_files"]:
            path = state.parent / entry["filename"]
            if path.parent != state.parent:
                raise InputError("a data file lies outside the data set's folder", where=str(path), fix="move it there")
            yield path


def _built(datasets: Any, folder: Path | None, config: "HuggingFaceCorpusConfig") -> tuple[Any, int]:
    """A split of data files in a folder, or of a data set on the hub."""
    source = config.name
    if folder is not None:
        _check_card(folder)
        source = str(folder.resolve())  # a relative name such as "json" would be taken for one of the library's readers
    builder = datasets.load_dataset_builder(source, config.subset, revision=config.revision)
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in _READERS:
        raise InputError(
            f"the data set is read by {reader!r}, not as a table or as text",
            where=config.name,
            fix=f"give one of {', '.join(_READERS)} files",
        )
    size = 0
    if folder is not None:
        files = [Path(str(name)) for names in (builder.config.data_files or {}).values() for name in names]
        size = sum(_checked(path, folder, reader, config.column) for path in files)
    builder.download_and_prepare()
    split = builder.as_dataset(split=config.split)
    return split, max(size, int(split.data.nbytes))


def _checked(path: Path, folder: Path, reader: str, column: str) -> int:
    """Size of a data file that lies in its folder and unpacks to no more than is read."""
    if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder)):
        raise InputError("a data file lies outside the data set's folder", where=str(path), fix="move it there")
    if reader == "parquet":
        check_parquet(path, column)
    elif reader == "arrow":
        check_plain_arrow(path)
    else:
        check_unpacks(path)
    return path.stat().st_size


def _check_card(folder: Path) -> None:
    """Refuse a folder whose card names data files elsewhere: loading it would fetch them."""
    from huggingface_hub import DatasetCard

    card = folder / "README.md"
    named: list[object] = []
    if card.is_file():
        with opened(card):  # a regular file that may be read
            named.append(DatasetCard.load(card).data.to_dict().get("configs"))
    if (folder / ".huggingface.yaml").is_file():
        raise InputError("a `.huggingface.yaml` is not read", where=str(folder), fix="delete it")
    for text in _strings(named):
        if "://" in text or text.startswith(("/", "~")) or ".." in text.split("/"):
            raise InputError(
                f"the data set's card names data outside its folder: {text!r}",
                where=str(card),
                fix="put the data into the folder, or correct the card",
            )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from _strings(inner)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, Iterable):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _strings(inner)  # pyright: ignore[reportUnknownArgumentType]


class HuggingFaceCorpusConfig(Config):
    """A data set of the `datasets` library, by local path or hub name (needs the `data` extra)."""

    kind: Literal["huggingface"] = "huggingface"
    name: Location
    """A folder written by `save_to_disk`, a folder of Parquet, JSON, CSV, Arrow or text files, or a name on the hub."""
    subset: Name | None = None
    """The hub's configuration of the data set, where it has several."""
    split: Name = "train"
    """The data set's own split to read; polyseme divides it into its train and held-out sides."""
    column: Name = "text"
    """The column that holds the text, lists of token ids, or lists of chat messages with `role` and `content` (written
    by the tokenizer's chat template); `data.text` for one within a column of records."""
    revision: Name | None = None
    """Branch, tag or commit on the hub; a commit makes the study repeatable."""
    download: bool = False
    """Whether a hub name may be downloaded; if false, only local paths are read."""
    max_documents: Count | None = None
    """Largest number of rows read, from the start; None for all."""
    errors: OnError = "strict"
    """What happens at a bad value: `strict` stops and names its row, `skip` leaves the value out and counts it."""

    def build(self) -> HuggingFaceCorpus:
        """The corpus."""
        return HuggingFaceCorpus(self)
