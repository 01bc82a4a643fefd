"""The hash that names a network's weights."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from polyseme.core.progress import Reporter, Silent
from polyseme.networks.fusion import fused_parts

# What a Hugging Face config records beside the network's function: where it came from and what wrote it.
_INCIDENTAL = ("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache")


_SLOW_BYTES = 2**29
"""Weights that take so long to hash that their progress is shown."""


def weights_fingerprint(module: nn.Module, reporter: Reporter | None = None) -> str:
    """SHA-256 (64 hex digits) over class, config, and the name, dtype, shape and bytes of every tensor of the state.

    Weights that several modules share are hashed once. The same network gives the same hash on every device; one whose
    parts are fused gives another, for its values differ in the last bits.
    """
    config: Any = getattr(module, "config", None)
    described: dict[str, Any] = config.to_dict() if hasattr(config, "to_dict") else {}
    header = {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "config": {key: value for key, value in described.items() if key not in _INCIDENTAL},
    }
    header |= dict.fromkeys(fused_parts(module), "fused")
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, default=str).encode())
    seen: dict[tuple[int, int], str] = {}
    state = module.state_dict()
    total = sum({(tensor.data_ptr(), tensor.numel()): tensor.nbytes for tensor in state.values()}.values())
    done = 0
    progress = ((reporter if total > _SLOW_BYTES else None) or Silent()).task("hash the weights", total / 1e6, "MB")
    for name, tensor in sorted(state.items()):
        key = (tensor.data_ptr(), tensor.numel())
        shared = seen.setdefault(key, name) if tensor.numel() else name
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:{shared}\n".encode())
        if shared == name:
            digest.update(_bytes(tensor))
            done += tensor.nbytes
        progress.update(done / 1e6)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The tensor's bytes, as a buffer without a copy where it is on the CPU."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
