"""Calls each function of the door with what it does not take, and prints what became of it; run without type checks."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch

import polyseme
from polyseme.core.errors import InputError

SITE = "blocks.2.resid_post"
WRONG: tuple[Any, ...] = (None, 3.5, True, object(), b"x", [], {}, [None], {"a": None})


def main(root: Path) -> None:
    """One line of JSON: what was called, and what was wrong with what it raised."""
    network = polyseme.load_network("pylm")
    dictionary = polyseme.TopKConfig(n_latents=64, k=4).build(224, seed=0)
    right: dict[str, dict[str, Any]] = {
        "ablate": {
            "dictionary": dictionary, "latent": 1, "reads": network.site(SITE), "positions": torch.ones(1, 2) > 0,
        },
        "steer": {"dictionary": dictionary, "latent": 1, "amount": 1.0, "positions": torch.ones(1, 2) > 0},
        "continue_text": {
            "network": network, "text": "import os", "edits": {SITE: polyseme.steer(dictionary, 1, 1.0)}, "n_tokens": 1,
            "temperature": 0.0, "seed": 0,
        },
        "top_tokens": {
            "network": network, "text": "import os", "site": SITE, "dictionary": dictionary, "latent": 1, "n": 3,
        },
        "splice_loss": {"network": network, "text": "import os\n", "dictionaries": {SITE: dictionary}, "context": 8},
        "train": {
            "source": network, "config": "topk", "site": SITE, "text": "import os\n" * 9, "n_tokens": 8, "seed": 0,
            "target": torch.ones(1, 1), "batch_size": 8,
        },
        "diagnose": {"network": network, "site": SITE, "inputs": torch.ones(4, 4, dtype=torch.int64)},
        "study": {"config": {"sites": ["nowhere"]}, "root": root, "jobs": 2},
        "open_study": {"run": "demo", "root": root},
        "compare": {"one": "demo", "other": "demo", "root": root},
        "load_network": {"source": "pylm"},
        "load_dictionary": {"folder": root},
        "save_dictionary": {"folder": root / "saved", "dictionary": dictionary},
    }  # fmt: skip
    optional = {
        ("ablate", "reads"), ("ablate", "positions"), ("steer", "positions"), ("splice_loss", "context"),
        *(("train", name) for name in ("config", "site", "text", "n_tokens", "target")),
    }  # fmt: skip
    right_too = {
        ("continue_text", "edits", "{}"), ("continue_text", "temperature", "3.5"), ("steer", "amount", "3.5"),
        ("study", "config", "{}"),
    }  # fmt: skip
    found: list[tuple[str, str]] = []
    for name, arguments in right.items():
        function = getattr(polyseme, name)
        assert set(inspect.signature(function).parameters) >= set(arguments) - {"batch_size"}, name
        for argument in arguments:
            for wrong in WRONG:
                if (wrong is None and (name, argument) in optional) or (name, argument, repr(wrong)) in right_too:
                    continue
                call = f"{name}({argument}={wrong!r})"
                try:
                    function(**{**arguments, argument: wrong})
                except InputError as error:
                    problem = "" if error.fix else f"no fix: {error}"
                except Exception as error:  # noqa: BLE001 - that is what is looked for
                    problem = f"{type(error).__name__}: {str(error)[:200]}"
                else:
                    problem = "nothing raised"
                found.append((call, problem))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
