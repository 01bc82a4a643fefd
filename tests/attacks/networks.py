"""Networks that learned nothing, as a study's own: `tests.attacks.networks:gaussian` is a source."""

from typing import Any

from torch import nn

from polyseme.networks import load_network
from polyseme.nulls import make_null


def gaussian() -> tuple[nn.Module, Any]:
    """The embedded network with every matrix drawn again."""
    return _random("gaussian_reinit")


def spectrum() -> tuple[nn.Module, Any]:
    """The same, each matrix with the singular values that it had."""
    return _random("spectrum_reinit")


def blocks() -> tuple[nn.Module, Any]:
    """Random blocks between trained embeddings."""
    return _random("gaussian_reinit", keep_embeddings=True)


def _random(kind: str, **more: Any) -> tuple[nn.Module, Any]:
    network = make_null(kind, 77).model_copy(update=more).network(load_network("pylm"))
    return network.module, network.tokenizer
