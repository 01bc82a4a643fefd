"""A whole study in a process of its own, and what it did: run by `study.py`.

    python studied.py STUDY.json ROOT

Stages and their seconds are the run's own events. Three calls inside the dictionaries stage are timed besides: what the
training waits for its batches, the training itself, and the pass for mean vectors. The answer is one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from told import held

from polyseme.activations import LiveSource
from polyseme.activations.firings import Firings
from polyseme.corpora import load_saved_windows
from polyseme.report.write import study as run_study
from polyseme.screen.progress import make_reporter
from polyseme.store import Store, load_array
from polyseme.studies.config import StudyConfig
from polyseme.studies.result import StudyResult
from polyseme.studies.stages import dictionaries as dictionaries_stage
from polyseme.studies.stages import statistics as statistics_stage
from polyseme.studies.stages.tokens import first_windows
from polyseme.studies.subject import dictionary_name


class Clock:
    """Seconds inside calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def call(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._add(name, begun)

        return timed

    def waits(self, name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The generator function, with the time that its consumer waits for each item."""

        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = function(*args, **kwargs)
            while True:
                begun = time.perf_counter()
                item = next(items, None)
                self._add(name, begun)
                if item is None:
                    return
                yield item

        return timed

    def _add(self, name: str, begun: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def main() -> None:
    """Run the study and say what happened."""
    told, root = Path(sys.argv[1]), Path(sys.argv[2])
    config = StudyConfig.model_validate_json(told.read_text())
    clock = Clock()
    LiveSource.batches = clock.waits("batches", LiveSource.batches)
    dictionaries_stage.fit = clock.call("fit", dictionaries_stage.fit)
    statistics_stage.site_statistics = clock.call("means", statistics_stage.site_statistics)
    result = run_study(config, root=root, reporter=make_reporter())
    print(
        json.dumps(
            {
                "events": list(result.run.events),
                "inside": clock.seconds,
                "peak_mib": held()["peak"],
                **work_done(result, config, Store(root)),
            }
        )
    )


def work_done(result: StudyResult, config: StudyConfig, store: Store) -> dict[str, Any]:
    """How much of everything there was, from what the study left."""
    artifacts = {stage: store.find(stage.partition(" ")[0], key) for stage, key in result.run.record.parents.items()}
    n_bytes = {"report": sum(path.stat().st_size for path in result.run.path.rglob("*") if path.is_file())}
    for stage, artifact in artifacts.items():
        name = stage.partition(" ")[0]
        n_bytes[name] = n_bytes.get(name, 0) + sum(record.size for record in artifact.records.values())
    train, heldout = (load_saved_windows(artifacts[f"tokens ({side})"].path) for side in ("train", "heldout"))
    sites: list[dict[str, int]] = []
    for site in config.bindings:
        name = dictionary_name(site, config.seeds[0])
        firings = Firings.load(artifacts["readings (trained)"].path, name)
        causal = f"causal (trained, {site})" if len(config.bindings) > 1 else "causal (trained)"
        rows, n_later = (load_array(artifacts[causal].path / f"{part}.npy") for part in ("sample_row", "n_later"))
        directions, later = 1 + len(config.causal.nulls) * config.causal.n_directions, 1 + len(config.causal.nulls)
        sites.append(
            {
                # Each latent's own direction and those of its nulls, and at most so many edited later tokens.
                "interventions": directions * len(rows) + later * config.causal.horizon * int(n_later.sum()),
                "windows": len(np.unique(firings.window[rows])),
                "places": len(np.unique(rows)),
                "documents": firings.n_documents,
            }
        )
    return {
        "sites": sites,
        "bytes": n_bytes,
        "train": train.n_tokens,
        "heldout": heldout.n_tokens,
        "spliced": first_windows(heldout, config.tokens.splice).n_tokens,
        "context": heldout.tokens.shape[1],
    }


if __name__ == "__main__":
    main()
