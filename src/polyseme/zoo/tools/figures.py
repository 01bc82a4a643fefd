"""One look for every figure of the toys."""

from typing import Any

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "figure.facecolor": "white",
}


def panels(n: int, *, width: float = 10, height: float = 3.2, columns: int | None = None) -> tuple[Any, list[Any]]:
    """A figure with `n` panels in rows of `columns` (one row by default), and their axes in order.

    The figure belongs to no window and to no global state: it is only ever saved. `width` is that of the figure and
    `height` that of a row, in inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(n, columns or n)
    rows = -(-n // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[n:]:
        axis.remove()
    return figure, axes[:n]
