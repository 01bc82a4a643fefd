"""Tables that people look at: columns first, with a short form for a terminal and for a notebook."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Bool, Shaped

from polyseme.core import html
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.text import visible

T = TypeVar("T", bound="Table")

PREVIEW = 5
"""Rows that a terminal shows."""
PAGE = 50
"""Rows that a notebook shows."""


@dataclass(frozen=True, repr=False)
class Table(ABC):
    """Rows of one kind.

    `table["density"]` is a column, `len(table)` the number of rows, and iterating gives rows with a field for each
    column.

    Attributes:
        columns: name to values, all of one length.
    """

    row: ClassVar[str]
    """What a row is, with a capital."""
    previewed: ClassVar[tuple[str, ...]] = ()
    """The columns that are shown; all where there are none."""

    columns: Mapping[str, Shaped[np.ndarray, " row"]]

    @property
    @abstractmethod
    def title(self) -> str:
        """What the table holds, in one line."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> Shaped[np.ndarray, " row"]:
        if column not in self.columns:
            near = nearest_names(column, list(self.columns)) or list(self.columns)
            raise InputError(f"the table has no column {column!r}", fix=f"nearest: {', '.join(near)}")
        return self.columns[column]

    def __iter__(self) -> Iterator[Any]:
        row = make_dataclass(self.row, list(self.columns), frozen=True)
        return (row(*values) for values in zip(*(c.tolist() for c in self.columns.values()), strict=True))

    def rows_where(
        self, wanted: Mapping[str, object], known: Mapping[str, Sequence[object]] | None = None
    ) -> Bool[np.ndarray, " row"]:
        """Which rows have these values; a value of None allows any.

        Args:
            wanted: column to value.
            known: column to the values it may have; those that stand in it where it is not named.

        Raises:
            InputError: a value that a column cannot have.
        """
        chosen = np.ones(len(self), dtype=bool)
        for column, value in wanted.items():
            if value is None:
                continue
            values = (known or {}).get(column) or list(dict.fromkeys(self.columns[column].tolist()))
            if value not in values:
                names = [str(one) for one in values if one is not None]
                near = nearest_names(str(value), names) or names[:10]
                raise InputError(
                    f"no {self.row.lower()} has the {column} {value!r}",
                    where=column,
                    fix=f"one of {', '.join(names)}" if len(names) <= 10 else f"nearest: {', '.join(near)}",
                )
            chosen &= self.columns[column] == value
        return chosen

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame(self.columns)

    @property
    def _shown(self) -> list[str]:
        return [name for name in self.previewed if name in self.columns] or list(self.columns)

    def _note(self, n: int) -> str:
        columns = f" and {len(self._shown)} of {len(self.columns)} columns"
        return f"{n:,} of {len(self):,} rows{columns if len(self._shown) < len(self.columns) else ''} shown"

    def __repr__(self) -> str:
        n = min(PREVIEW, len(self))
        lines = [self.title]
        cells = [self._shown, *([_cell(self.columns[name][i]) for name in self._shown] for i in range(n))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells if n]
        return "\n".join([*lines, self._note(n)])

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """The first rows, as a notebook shows them."""
        n = min(PAGE, len(self))
        shown = [self.columns[name][:n].tolist() for name in self._shown]
        body = html.table(self._shown, zip(*shown, strict=True)) if n else ""
        note = html.text(self._note(n) + ("; .to_pandas() has all" if n < len(self) else ""))
        return html.frame(self.title, body, html.small(note))


def data_frame(columns: Mapping[str, Any]) -> Any:
    """Columns as a pandas DataFrame.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("pandas is not installed", fix="pip install pandas, or use the columns") from error
    return pandas.DataFrame(dict(columns))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else visible(str(value), limit=80)
