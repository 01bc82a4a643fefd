"""Seeds derived by name, so that adding one consumer never changes another's numbers."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(root: int, *names: str | int) -> int:
    """A 63-bit seed, a pure function of the root seed and the path of names under it."""
    text = ":".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(root: int, *names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A `torch.Generator` on `device`, seeded with `derive_seed(root, *names)`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(root, *names))
