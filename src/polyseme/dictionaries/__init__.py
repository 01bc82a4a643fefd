"""Dictionaries: sparse latents of a site's vectors, one architecture a file and one line in `DictionaryConfig`.

dictionary = TopKConfig(k=32).build(d_in=256, seed=0)     # d_out=... makes it a transcoder
z = dictionary.encode(x)                                  # raw activations in, sparse latents out
dictionary.decode(z)                                      # raw activations out
"""

from pathlib import Path
from typing import Annotated, Any, get_args

import torch
from pydantic import Field, TypeAdapter

from polyseme.core.validation import check_kind, path_of
from polyseme.dictionaries import saving
from polyseme.dictionaries.base import DictionaryBase
from polyseme.dictionaries.batch_topk import BatchTopKConfig
from polyseme.dictionaries.engine.engine import SparseDictionary
from polyseme.dictionaries.gated import GatedConfig
from polyseme.dictionaries.ista import ISTAConfig
from polyseme.dictionaries.jumprelu import JumpReLUConfig
from polyseme.dictionaries.matryoshka import MatryoshkaConfig
from polyseme.dictionaries.protocol import Dictionary, Direction, LatentEncoder, Reconstructor, StepStats, Trainable
from polyseme.dictionaries.relu import ReLUConfig
from polyseme.dictionaries.topk import TopKConfig

DictionaryConfig = Annotated[
    ReLUConfig | TopKConfig | BatchTopKConfig | JumpReLUConfig | GatedConfig | MatryoshkaConfig | ISTAConfig,
    Field(discriminator="architecture"),
]
"""The family's table: a config's `architecture` says which it is."""

ARCHITECTURES: dict[str, type[DictionaryBase]] = {
    config.model_fields["architecture"].default: config for config in get_args(get_args(DictionaryConfig)[0])
}
"""Architecture to its config, from the table."""


def save_dictionary(folder: Path, dictionary: SparseDictionary, metadata: dict[str, Any] | None = None) -> None:
    """Write a dictionary that takes raw activations: normalisation folded into the weights, decoder rows of norm 1.

    Args:
        folder: gets `dictionary.json` and `dictionary.safetensors`.
        dictionary: trained or not; it is not changed.
        metadata: JSON kept beside it (site, network, training).

    Raises:
        InputError: when its weights are not float32 or float64, or hold what none can (NaN), or the disk is full.
    """
    fix = "give what polyseme.train(…).dictionary is, or a config's build(…)"
    check_kind(dictionary, SparseDictionary, "dictionary", where="dictionary", fix=fix)
    saving.save(path_of(folder, "folder"), dictionary, metadata or {})


def load_dictionary(folder: Path, *, device: torch.device | str = "cpu") -> SparseDictionary:
    """Read a dictionary, bit for bit what `save_dictionary` folded.

    Raises:
        InputError: when there is none, or one of another version.
        DamagedArtifact: when a file is damaged, or the two do not agree.
    """
    return saving.load(path_of(folder, "folder"), TypeAdapter[DictionaryBase](DictionaryConfig).validate_python, device)


def dictionary_metadata(folder: Path) -> dict[str, Any]:
    """What `save_dictionary` was given as metadata."""
    return dict(saving.read_record(path_of(folder, "folder")).get("metadata") or {})


__all__ = [
    "ARCHITECTURES",
    "BatchTopKConfig",
    "Dictionary",
    "DictionaryConfig",
    "Direction",
    "GatedConfig",
    "ISTAConfig",
    "JumpReLUConfig",
    "LatentEncoder",
    "MatryoshkaConfig",
    "ReLUConfig",
    "Reconstructor",
    "SparseDictionary",
    "StepStats",
    "TopKConfig",
    "Trainable",
    "dictionary_metadata",
    "load_dictionary",
    "save_dictionary",
]
