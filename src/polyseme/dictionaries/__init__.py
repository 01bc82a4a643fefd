"""Dictionaries: sparse latents of a site's vectors, one architecture a file."""

from polyseme.dictionaries.engine import SparseDictionary
from polyseme.dictionaries.protocol import Dictionary, StepStats, Trainable
from polyseme.dictionaries.topk import TopKConfig

ARCHITECTURES = {
    "topk": TopKConfig,
}
DictionaryConfig = TopKConfig

__all__ = ["ARCHITECTURES", "Dictionary", "DictionaryConfig", "SparseDictionary", "StepStats", "Trainable"]
