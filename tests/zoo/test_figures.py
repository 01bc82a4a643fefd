"""The figures of the toys are drawn at a small size: a warning of matplotlib or numpy fails."""

import io

import pytest

from polyseme.core.progress import Silent
from polyseme.zoo import TOYS

FEW = {
    "absolute_value": {"n_features": 4, "n_hidden": 4, "density": (1.0, 0.1)},
    "bit_extraction": {"row_bits": 3, "column_bits": 4},
    "compressed_computation": {"n_features": 10, "n_hidden": 5},
    "datapoint_features": {"n_features": 20, "sparsity": 0.8, "n_examples": (3, 5, 7, 9), "n_test": 50},
    "incidental": {"n_features": 4, "n_neurons": 8},
}
"""Sizes, where the default ones take long."""
BRIEF = {"steps": 3, "batch": 64, "rows": 500}
LONG = {"induction", "modular_addition", "planted_sparse", "superposition"}
"""Toys whose figures train networks for minutes, whatever the config."""
FIGURES = [(name, figure) for name, toy in TOYS.items() if name not in LONG for figure in toy.figures]


@pytest.mark.parametrize(("name", "figure"), FIGURES)
def test_a_figure_is_drawn(name: str, figure: str) -> None:
    config = TOYS[name].config
    default = config().model_dump()
    small = {"seeds": default["seeds"][:2], **FEW.get(name, {})}
    for part in {"optimiser", "training"} & default.keys():
        small[part] = default[part] | {key: value for key, value in BRIEF.items() if key in default[part]}
    file = io.BytesIO()
    TOYS[name].figures[figure](config.model_validate(small), Silent()).savefig(file, format="svg")
    assert file.getvalue().startswith(b"<?xml")
