"""What a study needs, before anything is trained: memory, disk and tokens, and a refusal where it cannot fit.

The figures are upper bounds of what arrays take at once, stage by stage; the factors in them count arrays of that size
(`tests/studies/test_price.py` compares the estimate of one study with the memory that its process took).
"""

import contextlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from polyseme.causal import CausalConfig
from polyseme.core.errors import InputError
from polyseme.core.memory import available_memory
from polyseme.core.progress import Reporter
from polyseme.evaluation.lookup import LookupConfig
from polyseme.evaluation.passes import LOGITS_BYTES
from polyseme.evaluation.recurrence import RecurrenceConfig
from polyseme.evaluation.stability import CANDIDATES, EXACT
from polyseme.evaluation.tables import TABLES
from polyseme.networks import Network
from polyseme.studies.config import StudyConfig, TokensConfig
from polyseme.training.jobs import MOMENTS

_FLOAT = 4
_GIGABYTE = 1e9
_STEP = 8e7
"""Most bytes that a step takes beside weights and batch. Two TopK dictionaries of 4,096 and of 16,384 latents took 80
and 77 MB beyond the arrays counted here."""
_LEAST_STEP = 8e6
_RETAINED = 2e8
"""Most bytes of small arrays that the allocator keeps when the training that made them is over."""
UNKNOWN_L0 = 64
"""Active latents a vector, where neither k nor a target says how many there will be."""
IDS = 13
"""Bytes of a packed token: its id, its document, and whether it is special; a firing's token takes as many."""
_SPLICE_WINDOWS = 8
_READ_TOKENS = 2048


class Widths(NamedTuple):
    """Widths of the vectors that a binding reads, of those that it writes, and of all its places, each counted once."""

    reads: int
    writes: int
    places: int


@dataclass(frozen=True)
class Sizes:
    """What a price depends on beside the config.

    Attributes:
        widths: of the vectors of each binding, by name.
        row_bytes: of a position in the network's widest tensor.
        vocabulary: logits a position; 0 where the network predicts no tokens.
        network: bytes of its weights.
        context: tokens a window.
        n_train, n_heldout: tokens of either side.
        n_documents: on the held-out side.
        n_controls: controls that the study is repeated on, with one seed each.
        n_further: further draws of them, whose dictionaries are compared with the study's.
        second_network: some control has a network of its own.
    """

    widths: Mapping[str, Widths]
    row_bytes: int
    vocabulary: int
    network: float
    context: int
    n_train: int
    n_heldout: int
    n_documents: int
    n_controls: int
    n_further: int
    second_network: bool

    @classmethod
    def asked(cls, study: StudyConfig, network: Network, context: int, *, n_further: int) -> "Sizes":
        """With the tokens that the config asks for, in as few documents as they can come from."""
        tokens: TokensConfig = study.tokens
        return cls(
            widths={
                name: Widths(*(sum(map(network.width, side)) for side in (b.reads, b.writes, b.places)))
                for name, b in study.bindings.items()
            },
            row_bytes=network.row_bytes,
            vocabulary=(network.vocabulary or 0) if network.predicts_tokens else 0,
            network=float(network.n_parameters * network.dtype.itemsize),
            context=context,
            n_train=tokens.train,
            n_heldout=tokens.heldout,
            n_documents=-(-tokens.heldout // (tokens.heldout_document_tokens or tokens.heldout)),
            n_controls=len(study.controls),
            n_further=n_further,
            second_network=any(control.targets == "weights" for control in study.controls),
        )

    @property
    def width(self) -> int:
        """Width of the vectors of all sites together, as they are read."""
        return sum(widths.places for widths in self.widths.values())

    def latents(self, study: StudyConfig) -> dict[str, int]:
        """Latents of each binding's dictionary."""
        return {name: study.dictionary.width(widths.reads) for name, widths in self.widths.items()}

    def found(self, *, n_train: int, n_heldout: int, n_documents: int) -> "Sizes":
        """With the tokens that there are."""
        return replace(self, n_train=n_train, n_heldout=n_heldout, n_documents=n_documents)


@dataclass(frozen=True)
class Price:
    """What a study needs beside the network, in bytes where nothing else is said.

    Attributes:
        kept: on the CPU from when they are made to the end: the dictionaries and firings (by row and by column) of the
            study and its controls, and of one further draw at a time; the tokens.
        training: on the network's device while dictionaries are trained: weights, gradients, Adam's two moments, the
            vectors of one batch, the shuffle buffer, and a pass of the network.
        passes: on the network's device afterwards: the activations and logits of the largest pass, and a control's
            network beside the study's.
        tables: on the CPU while look-up tables are learned and dictionaries are compared.
        disk: of the artifacts, with one checkpoint.
        tokens: that each dictionary is trained on.
        stages: name of a stage to what it needs in a process of its own, what it reads of other stages included.
    """

    kept: float
    training: float
    passes: float
    tables: float
    disk: float
    tokens: int
    stages: Mapping[str, float]

    @property
    def memory(self) -> float:
        """On a machine whose CPU runs the network."""
        retained = min(self.training / 2, _RETAINED)
        return self.kept + max(self.training, retained + max(self.passes, self.tables))


def price(study: StudyConfig, sizes: Sizes, causal: CausalConfig) -> Price:
    """What a study needs, from its config and what its network and corpus turned out to be."""
    latents, seeds = sizes.latents(study), len(study.seeds)
    weights = float(_FLOAT * sum(n * (w.reads + w.writes + 2) + w.writes for n, w in _pairs(latents, sizes)))
    n_dictionaries, n_latents = seeds + sizes.n_controls + sizes.n_further, max(latents.values())
    l0 = study.training.target_l0 or study.dictionary.active_latents or UNKNOWN_L0
    n_learn = min(study.evaluation.match_tokens, sizes.n_train)
    entries, learned = (n_tokens * float(l0) * len(sizes.widths) for n_tokens in (sizes.n_heldout, n_learn))
    windows = float(IDS * (sizes.n_train + sizes.n_heldout))
    vector = 2 if study.harvest.shard_dtype == "float16" else _FLOAT
    cache = sizes.n_train * sizes.width * vector if study.harvest.cache == "disk" else 0
    ids = IDS * (sizes.n_heldout + n_learn) * n_dictionaries * len(sizes.widths)
    read = _pass(sizes, _read_at_once(study, sizes))
    counted = min(sizes.n_train, study.evaluation.lookup_tokens)
    meant = max(causal.held_bytes(latents[n], sizes.vocabulary, w.writes, counted, l0) for n, w in sizes.widths.items())
    own, fired, learning = windows + weights * seeds, 24 * entries, 24 * learned
    copies, sites = len(study.copied), len(sizes.widths)
    arrays = {
        "tokens": 0.0,
        "statistics": read,
        "dictionaries": _training(study, sizes, weights, n_latents),
        "readings": read,
        "splice": max(read, _spliced(study, sizes)),
        "continuations": max(read, _spliced(study, sizes)),
        "baselines": _lookup(study, sizes),
        "causal": max(read, _intervened(sizes, causal, n_latents)),
        "matching": read,
        "recurrence": max(map(_recurring, latents.values())) if seeds > 1 else 0.0,
        "stability": max(map(_matched, latents.values())) if seeds > 1 else 0.0,
        "learning": read + copies * _copied(weights, fired + learning, sites, n_latents) if copies else 0.0,
    }
    # A further draw; at one site the judged latents, those of another dictionary and random ones, on both sides.
    compared = own + fired * (seeds + 1) + weights + 3 * (fired + learning) / len(sizes.widths)
    held = {
        "tokens": windows,
        "statistics": windows,
        "dictionaries": windows,
        "baselines": windows,
        "readings": own + fired * seeds,
        "matching": own + learning * seeds,
        "splice": own,
        "continuations": own,
        "causal": own + fired * seeds,
        "recurrence": compared,
        "stability": weights * seeds + fired * seeds,
        "learning": own,
    }
    return Price(
        kept=compared + (weights + fired) * sizes.n_controls,
        training=arrays["dictionaries"],
        passes=max(arrays[name] for name in ("readings", "splice", "causal")) + sizes.network * sizes.second_network,
        tables=max(
            arrays["baselines"], arrays["causal"] + meant, arrays["recurrence"], arrays["stability"], arrays["learning"]
        ),
        disk=weights * (n_dictionaries + 3 * seeds + MOMENTS * copies)
        + 8 * (entries + learned) * n_dictionaries
        + ids
        + windows
        + cache,
        tokens=study.training.n_tokens or sizes.n_train,
        stages={name: held[name] + needed + meant * (name == "causal") for name, needed in arrays.items()},
    )


def _pairs(latents: Mapping[str, int], sizes: Sizes) -> list[tuple[int, Widths]]:
    return [(latents[name], widths) for name, widths in sizes.widths.items()]


def _pass(sizes: Sizes, tokens: float) -> float:
    """Activations of one pass: two tensors of the widest kind, and the vectors of the sites, as read and copied."""
    return tokens * (2.0 * sizes.row_bytes + 2 * _FLOAT * sizes.width)


def _training(study: StudyConfig, sizes: Sizes, weights: float, n_latents: int) -> float:
    seeds, width, rows = len(study.seeds), float(sizes.width), study.training.batch_size
    batch = rows * 8 * width * _FLOAT * seeds
    step = min(_STEP, _LEAST_STEP + 4.0 * rows * n_latents * _FLOAT)
    buffer = min(study.harvest.block_tokens, sizes.n_train) * width * _FLOAT * (2 if study.harvest.prefetches else 1)
    windows = study.harvest.batch_windows
    read = min(sizes.n_train, windows * sizes.context if windows else max(_READ_TOKENS, sizes.context))
    return 4 * weights * seeds + batch + step + buffer + _pass(sizes, read)


def _spliced(study: StudyConfig, sizes: Sizes) -> float:
    """A pass with patches: six arrays as large as the logits."""
    if not sizes.vocabulary:
        return 0.0
    position = float(_FLOAT * sizes.vocabulary)
    windows = max(1, min(_SPLICE_WINDOWS, LOGITS_BYTES // int(position * sizes.context)))
    spliced = min(study.tokens.splice, windows * sizes.context)
    return _pass(sizes, spliced) + 6 * spliced * position


def _intervened(sizes: Sizes, causal: CausalConfig, n_latents: int) -> float:
    """A pass with interventions on one window, which share the clean predictions at their positions: logits, their
    logarithms of probabilities, and four arrays of a part of these."""
    n_edits = float(n_latents) * causal.edited
    if not sizes.vocabulary or not n_edits:
        return 0.0
    ghosts = min(causal.max_ghosts, -(-n_edits * sizes.context // sizes.n_heldout))
    edited = min(max(causal.tokens_per_pass, ghosts + sizes.context), n_edits + sizes.context)
    read_at = edited * (ghosts + min(sizes.context, ghosts / 2)) / (sizes.context + ghosts)
    mask = 6.0 * (ghosts + sizes.context) ** 2
    return _pass(sizes, edited) + 3 * read_at * float(_FLOAT * sizes.vocabulary) + mask


def _lookup(study: StudyConfig, sizes: Sizes) -> float:
    """Sums and means of tokens (float64, float32) and of bigrams (float32 both), and the pass that they come from."""
    tokens = min(sizes.vocabulary or sizes.n_heldout, sizes.n_heldout)
    bigrams = min(LookupConfig().max_bigrams, sizes.n_heldout, study.evaluation.lookup_tokens)
    width = sum(widths.writes for widths in sizes.widths.values())
    sums = sizes.n_documents * (3 + width) * 8 * 4
    return float(width * (12 * tokens + 16 * bigrams) + sums) + _pass(sizes, _read_at_once(study, sizes))


def _read_at_once(study: StudyConfig, sizes: Sizes) -> int:
    """Held-out tokens of a pass that reads sites; long windows are read fewer at a time (`fitting_windows`)."""
    most = max(_READ_TOKENS, sizes.context)
    return min(sizes.n_heldout, study.evaluation.batch_windows * sizes.context, most)


def _matched(n: int) -> float:
    """Dictionaries of n latents matched by their directions: cosines, and the assignment's copies of them in float64;
    or a chunk of them, and each latent's nearest."""
    return 24.0 * n**2 if n <= EXACT else 8.0 * 1024 * n + 48.0 * CANDIDATES * n


def _recurring(n: int) -> float:
    """A dictionary of n latents predicted from another's: their products, those of the other's with themselves, the
    factor of these and the weights; and sums over groups of documents by what the tables know."""
    config = RecurrenceConfig()
    cells = config.n_groups * 2.0 ** len(TABLES)
    return 5.0 * _FLOAT * n**2 + 8 * 5 * cells * n + 1.5 * config.chunk_bytes


def _copied(weights: float, fired: float, sites: int, n: int) -> float:
    """The copy of one seed's dictionaries, their firings at all sites as they are collected, and those of the site that
    is matched by row, by column and in float64; products of n latents with n others."""
    return weights + 0.5 * fired + 1.5 * fired / sites + _FLOAT * n**2


def check_price(
    study: StudyConfig, sizes: Sizes, causal: CausalConfig, *, device: torch.device, root: Path, reporter: Reporter
) -> Price:
    """Say what a study needs and what is free; refuse what cannot fit, and more latents than tokens to learn from.

    Args:
        study, sizes, causal: as for `price`.
        device: of the network.
        root: folder that the study writes to.
        reporter: receives what is needed and what is free.

    Raises:
        InputError: the memory or the disk is too small, or there are fewer tokens than latents.
    """
    cost = price(study, sizes, causal)
    most = max(sizes.latents(study).values())
    if cost.tokens < most:
        raise InputError(
            f"{most:,} latents cannot be learned from {cost.tokens:,} tokens: that is less than one token a latent",
            where="dictionary.n_latents, training.n_tokens",
            fix=f"train on at least {most:,} tokens, or take fewer latents",
        )
    on_cpu = device.type != "cuda"
    needed = cost.memory if on_cpu else cost.kept + cost.tables
    on_device = max(cost.training, cost.passes)
    free, free_disk = available_memory(), float(shutil.disk_usage(_existing(root)).free)
    reporter.message(
        f"needs about {_size(needed)} of memory ({_size(free)} free)"
        + ("" if on_cpu else f" and {_size(on_device)} on {device}")
        + f" beside the network, and {_size(cost.disk)} of disk ({_size(free_disk)} free); "
        f"trains {cost.tokens:,} tokens"
    )
    _check(needed, free, "memory")
    if not on_cpu:
        _check(on_device, float(torch.cuda.mem_get_info(device)[0]), f"memory of {device}")
    if cost.disk > free_disk and cost.disk > free_disk + _written(root):  # a resumed study wrote some of it before
        raise InputError(
            f"the study writes about {_size(cost.disk)}, and the disk has {_size(free_disk)} free",
            where=str(root),
            fix="free some of it, write elsewhere (`--root`), or take fewer latents, sites, seeds or held-out tokens"
            + (", or set `harvest.cache` to stream" if study.harvest.cache == "disk" else ""),
        )
    return cost


def _check(needed: float, free: float, what: str) -> None:
    if needed > free:
        raise InputError(
            f"the study needs about {_size(needed)} of {what}, and {_size(free)} is free",
            where="dictionary.n_latents, sites, seeds, training.batch_size, harvest.block_tokens, tokens.heldout, "
            "tokens.context, harvest.batch_windows",
            fix="take fewer latents, sites or seeds, a smaller batch, block or pass, or fewer held-out tokens",
        )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _written(root: Path) -> float:
    """Bytes of the files below a folder."""
    total = 0.0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):  # another process may clear up
                total += Path(folder, name).lstat().st_size
    return total


def _size(size: float) -> str:
    return "no limit" if math.isinf(size) else f"{max(size, 1e7) / _GIGABYTE:,.2f} GB"
