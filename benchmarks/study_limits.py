"""What each part of a study cannot do without, in seconds: its work counted, at rates measured beside it."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from polyseme.activations.massive import SAMPLE as MEAN_TOKENS
from polyseme.networks import load_network
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.stages.continuations import NEW_TOKENS, PROMPT_TOKENS

ROUNDS = 9
ROWS = 2048
"""Rows of the products that are timed: tokens of a harvest's pass, and of a training batch."""
DISK_BYTES = 64 * 2**20
TEXTS = 60
STAGES = {
    "dictionaries": "saving dictionaries",
    "readings": "held-out vectors",
    "splice": "patched passes",
    "baselines": "look-up baselines",
    "continuations": "text",
    "causal": "causal effects",
    "matching": "firings to match on",
    "recurrence": "matches and predictions",
    "stability": "seed stability",
}
"""A stage of the run to its part here, where they are called differently."""


@dataclass(frozen=True)
class Part:
    """A part of a study.

    Attributes:
        seconds: it took.
        limit: seconds it cannot do without; 0 where nothing is known.
        derivation: of the limit, in words.
    """

    name: str
    seconds: float
    limit: float
    derivation: str

    @property
    def above(self) -> float:
        """Seconds above the limit."""
        return self.seconds - self.limit

    def row(self) -> dict[str, Any]:
        """For `save_figures`."""
        return {
            "kind": "part",
            "name": self.name,
            "seconds": self.seconds,
            "limit": self.limit,
            "derivation": self.derivation,
        }


@dataclass(frozen=True)
class Rates:
    """Measured seconds.

    Attributes:
        taken: name (`block`, `head`, `encoder`, `byte`, `token`) and routine to the seconds of each round, a
            row of the products, a byte written, a token made.
        flop: of one row of each product.
        n_blocks: of the network.
    """

    taken: Mapping[tuple[str, str], tuple[float, ...]]
    flop: Mapping[str, float]
    n_blocks: int

    def joined(self, other: "Rates") -> "Rates":
        """Both measurements together."""
        return Rates({key: rounds + other.taken[key] for key, rounds in self.taken.items()}, self.flop, self.n_blocks)

    def __getitem__(self, name: str) -> float:
        """Median seconds, by the faster routine."""
        return min(statistics.median(rounds) for (what, _), rounds in self.taken.items() if what == name)

    def gflops(self) -> dict[str, float]:
        """Rates of the products, 10⁹ floating-point operations a second."""
        return {name: flop / self[name] / 1e9 for name, flop in self.flop.items()}


def measured_rates(config: StudyConfig, folder: Path) -> Rates:
    """Time everything that limits are made of, in turns.

    Args:
        config: of the study.
        folder: on the disk that the study writes to.
    """
    network = load_network(config.network.source)
    shape: Any = network.module.config
    dictionary: Any = config.dictionary
    d = shape.n_embd
    products: dict[str, list[tuple[int, int]]] = {
        "block": [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)],
        "head": [(d, shape.vocab_size)],
        "encoder": [(d, dictionary.n_latents)],
    }
    runs: dict[tuple[str, str], tuple[Callable[[], object], float]] = {}
    for name, sides in products.items():
        for routine, run in routines(sides).items():
            runs[name, routine] = (run, ROWS)
    corpus: Any = config.corpus.build()
    texts = [document.text for document in islice(corpus.documents(), TEXTS)]
    tokenizer: Any = network.tokenizer
    backend = tokenizer.backend_tokenizer
    n_tokens = sum(len(encoded.ids) for encoded in backend.encode_batch(texts, add_special_tokens=False))
    runs["token", "tokenizer"] = (lambda: backend.encode_batch(texts, add_special_tokens=False), n_tokens)
    content = os.urandom(DISK_BYTES)
    runs["byte", "disk"] = (lambda: written(folder / "bytes", content), DISK_BYTES)
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for round_ in range(ROUNDS + 1):
        for key, (run, units) in runs.items():
            begun = time.perf_counter()
            run()
            if round_:
                taken[key].append((time.perf_counter() - begun) / units)
    flop = {name: sum(2.0 * a * b for a, b in sides) for name, sides in products.items()}
    return Rates({key: tuple(rounds) for key, rounds in taken.items()}, flop, network.n_blocks)


def routines(sides: Iterable[tuple[int, int]]) -> dict[str, Callable[[], object]]:
    """Products of `ROWS` rows with weights of these sides, by torch's own routine and, where there is one, oneDNN's."""
    given = [(torch.randn(ROWS, a), torch.randn(b, a), torch.empty(ROWS, b)) for a, b in sides]

    @torch.inference_mode()
    def mm() -> None:
        for x, weight, out in given:
            torch.mm(x, weight.t(), out=out)

    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn is None:
        return {"mm": mm}

    @torch.inference_mode()
    def pointwise() -> None:
        for x, weight, _ in given:
            onednn(x, weight, None, "none", [], "")

    return {"mm": mm, "oneDNN": pointwise}


def written(path: Path, content: bytes) -> None:
    """Write and wait for the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def limits(
    config: StudyConfig,
    done: Mapping[str, Any],
    rates: Rates,
    seconds: Mapping[str, float],
    *,
    import_torch: float,
) -> list[Part]:
    """Every part with its limit.

    Args:
        config: of the study.
        done: what `studied.py` said.
        rates: measured beside it.
        seconds: of each part.
        import_torch: seconds of a process that does nothing else.
    """
    block, head, encoder = rates["block"], rates["head"], rates["encoder"]
    n_blocks, n_sites = rates.n_blocks, len(config.sites)
    # Block n's output takes n + 1 blocks; what is patched there runs the others.
    below = [int(name.removeprefix("blocks.").removesuffix(".resid_post")) + 1 for name in config.sites]
    deepest = max(below)
    plan = Plan.of(config)
    subjects, scored = 1 + len(plan.nulls), 1 + len(plan.controls)
    n_dictionaries = n_sites * (len(config.seeds) + len(plan.nulls))
    assert config.training.n_tokens is not None
    steps = config.training.n_tokens // config.training.batch_size
    trained = steps * config.training.batch_size
    heldout, spliced = done["heldout"], done["spliced"]

    # Passes that patch: every site alone and all together, each with zeros, with means and with reconstructions.
    after = [n_blocks - n for n in (*below, min(below))]
    passes = 1 + 3 * len(after)
    patched = (n_blocks + 3 * sum(after)) * block + passes * head + 2 * n_sites * encoder
    prompts = config.evaluation.n_continuations
    text = prompts * (PROMPT_TOKENS + NEW_TOKENS)
    effects = [
        site["windows"] * done["context"] * n_blocks * block
        + site["places"] * head
        + site["interventions"] * ((n_blocks - n) * block + head)
        for site, n in zip(done["sites"], below, strict=True)
    ]
    interventions = sum(site["interventions"] for site in done["sites"])
    matched = min(config.evaluation.match_tokens, done["train"])
    known: dict[str, tuple[float, str]] = {
        "starting Python and torch": (import_torch, "`import torch` in a fresh process"),
        "tokens": (
            (done["train"] + heldout) * rates["token"],
            f"{done['train'] + heldout:,} tokens through the tokenizer alone",
        ),
        "harvest": (
            subjects * trained * deepest * block,
            f"{subjects} networks × {trained:,} tokens × {deepest} blocks' products",
        ),
        "training": (
            n_dictionaries * trained * encoder,
            f"{n_dictionaries} dictionaries × {steps} steps × {config.training.batch_size:,} rows' encoder products",
        ),
        "mean vectors": (
            subjects * min(MEAN_TOKENS, done["train"]) * deepest * block,
            f"{subjects} networks × {min(MEAN_TOKENS, done['train']):,} tokens × {deepest} blocks' products",
        ),
        "held-out vectors": (
            heldout * (subjects * deepest * block + n_dictionaries * encoder),
            f"{heldout:,} tokens × ({subjects} networks × {deepest} blocks' + {n_dictionaries} encoders' products)",
        ),
        "patched passes": (
            scored * spliced * patched,
            f"{scored} networks × {spliced:,} tokens × ({n_blocks + 3 * sum(after)} blocks', {passes} heads' and "
            f"{2 * n_sites} encoders' products)",
        ),
        "look-up baselines": (
            (min(config.evaluation.lookup_tokens, done["train"]) + heldout) * deepest * block,
            f"{min(config.evaluation.lookup_tokens, done['train']) + heldout:,} tokens × {deepest} blocks' products",
        ),
        "text": (
            2 * text * n_blocks * block + 2 * prompts * NEW_TOKENS * head + text * n_sites * encoder,
            f"2 × {text} tokens × {n_blocks} blocks' products, each token once",
        ),
        "causal effects": (
            sum(effects),
            f"{interventions:,} interventions × (the blocks above their site and the head), and each of the "
            f"{sum(site['windows'] for site in done['sites']):,} windows once",
        ),
        "firings to match on": (
            matched * (subjects * deepest * block + n_dictionaries * encoder),
            f"{matched:,} tokens × ({subjects} networks × {deepest} blocks' + {n_dictionaries} encoders' products)",
        ),
    }
    parts: list[Part] = []
    for name, taken in seconds.items():
        limit, derivation = known.get(name, (0.0, ""))
        n_bytes = sum(n for stage, n in done["bytes"].items() if STAGES.get(stage, stage) == name)
        if n_bytes:
            limit += n_bytes * rates["byte"]
            derivation += f"{'; ' if derivation else ''}{n_bytes / 1e6:.1f} MB to the disk"
        parts.append(Part(name, taken, limit, derivation or "no limit is known"))
    return parts
