"""The model behind the scaling curves, the worker that measures them, and the page they are written to."""

import itertools
import sys
from contextlib import closing
from dataclasses import asdict
from importlib import import_module
from typing import Any

import pytest
import torch

from polyseme.dictionaries import TopKConfig
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.int8 import candidates
from polyseme.kernels.tuning import DEFAULT

PER_SECOND = {"flops": 1e9, "copied": 1e8, "selected": 1e7, "ordered": 1e6}


def test_the_model_counts_what_the_engine_has() -> None:
    model = import_module("scale_model")
    assert DEFAULT.block == model.BLOCK
    for d, n, k, rows, count in ((8, 24, 3, 40, 1), (5, 70_001, 7, 300, 1), (6, 32, 32, 9, 3)):
        shape = model.Shape(d, n, k, rows, count)
        built = [TopKConfig(n_latents=n, k=k).build(d, seed=seed) for seed in range(count)]
        assert shape.parameters == sum(p.numel() for one in built for p in one.parameters().values())
        encoder = Encoder(torch.randn(rows, d), built[0].parameters()["W_enc"], torch.zeros(n))
        assert shape.blocks == len({latents.start for _, latents, _ in encoder.blocks()})
        assert shape.entries == count * rows * min(k, n)


def test_bytes_by_hand() -> None:
    model = import_module("scale_model")
    # 5 vectors of width 2, 3 latents, 1 active: 17 parameters; 3 gathers of 5 rows of 2 numbers.
    assert model.moved(model.Shape(2, 3, 1, 5)) == {
        "entries": 3 * 5 * 2 * 4,
        "parameters": 32 * 17 + 10 * 6 * 4,
        "vectors": 13 * 10 * 4,
    }


def test_a_product_is_never_faster_than_its_factors_are_read() -> None:
    model = import_module("scale_model")
    shape = model.Shape(64, 2**20, 1, 300)  # 2,048 blocks
    endless = {"copied": 1e30, "selected": 1e30, "ordered": 1e30}
    by_flops = model.predicted(shape, model.Rates(flops=1e9, **endless))
    assert sum(by_flops.values()) == pytest.approx(1e3 * 2 * 300 * 64 * 2**20 / 1e9)
    by_memory = model.predicted(shape, model.Rates(flops=1e30, copied=1e9, selected=1e30, ordered=1e30))
    assert by_memory["product"] == pytest.approx(1e3 * 4 * 64 * (2**20 + 2**11 * 300) / 1e9)


def test_by_bytes_candidates_are_scored_and_nothing_is_looked_through() -> None:
    model = import_module("scale_model")
    shape = model.Shape(64, 2**20, 2, 300)
    parts = model.predicted(shape, model.Rates(flops=1e30, copied=1e9, selected=None, ordered=1e30))
    assert parts["product"] == pytest.approx(0, abs=1e-9)
    assert parts["selection"] == pytest.approx(1e3 * candidates(2**20, 64, 2) * 300 * 64 * 4 / 1e9)


def test_a_batch_of_the_stream_is_a_function_of_its_number() -> None:
    point = import_module("scale_point")
    spec = point.Spec("fit", d=6, batch_size=5, n_tokens=30)
    whole = [batch.acts["site"] for batch in point.Stream(spec, None).batches(5)]
    late = [batch.acts["site"] for batch in point.Stream(spec, None).batches(5, start=4)]
    assert len(whole) == 6
    assert len(late) == 2
    assert all(map(torch.equal, whole[4:], late))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(whole, 2))


@pytest.mark.slow
def test_a_point_answers_for_every_step_and_for_all_its_memory() -> None:
    workers, model = import_module("workers"), import_module("scale_model")
    shape = model.Shape(16, 4096, 4, 4096, 2)
    spec = {"kind": "fit", **asdict(shape), "n_tokens": 3 * 4096, "threads": 1}
    with closing(workers.Contestant("point", sys.executable, spec, script="scale_point.py")) as worker:
        assert all(worker.ask("step")["ms"] > 0 for _ in range(3))
        memory: dict[str, Any] = worker.ask("memory")
    assert memory.pop("note").startswith("fvu")
    assert memory["parameters"] == memory["gradients"] == 4 * shape.parameters / 2**20
    assert memory["adam"] == 2 * memory["parameters"]
    assert memory.pop("peak") == pytest.approx(sum(memory.values()))
    assert 0 < memory["rest"] < 32


def test_the_page_names_where_the_model_fails() -> None:
    model, page = import_module("scale_model"), import_module("scaling_page")
    rows: list[dict[str, Any]] = []
    for n, factor in ((1024, 1.0), (2048, 1.5)):
        shape = model.Shape(32, n, 8, 256)
        ms = factor * sum(model.predicted(shape, model.Rates(**PER_SECOND)).values())
        memory = {"parameters": 1.0, "gradients": 1.0, "adam": 2.0, "rest": 5.0, "peak": 9.0}
        row = {"axis": "latents", "shape": asdict(shape), "ms": 3 * [ms], "product": [ms / 4], "own": [ms / 2]}
        rows.append({**row, "rates": PER_SECOND, "memory": memory})
    lines = page.section({"about": {"k": 8, "batch_size": 256, "threads": 1}, "rows": rows})
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| 32 ×")]
    assert [row[4] for row in cells] == ["4.00", "4.00"]
    assert [row[7] for row in cells] == ["1.00", "1.50"]
    failing = next(line for line in lines if "out by more" in line)
    assert "2,048" in failing
    assert "1,024" not in failing
