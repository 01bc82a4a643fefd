"""From the last residual stream to logits: the final norm, the head, and the soft cap where there is one."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks.loaded import Loaded


@final
class ReadOut:
    """The read-out of a network."""

    def __init__(self, loaded: Loaded):
        self._module = loaded.module
        self._paths = [path.format(base=loaded.base) for path in loaded.family.readout] if loaded.family else []
        self._cap: float | None = getattr(loaded.config, "final_logit_softcapping", None)

    @property
    def head(self) -> nn.Linear | None:
        """The linear map to logits; None for a network without one."""
        find = getattr(self._module, "get_output_embeddings", None)
        head = find() if callable(find) else None
        return head if isinstance(head, nn.Linear) else None

    def sees_any(self, sites: Sequence[Site]) -> bool:
        """Whether a site is at the head, in it or around it, where only some rows may be seen under `logits_at`."""
        head = self.head
        path = next((name for name, part in self._module.named_modules() if part is head), None)
        return path is not None and any(
            f"{site.path}.".startswith(f"{path}.") or (site.port == "out" and _within(path, site.path))
            for site in sites
        )

    def logits(self, vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of vectors of the last residual stream.

        Raises:
            InputError: the network has no head, or is of an unknown family.
        """
        parts = dict(self._module.named_modules())
        if not self._paths or any(path not in parts for path in self._paths):
            raise InputError("This network has no known read-out from its residual stream to logits")
        out = vectors
        for path in self._paths:
            out = parts[path](out)
        return out if self._cap is None else torch.tanh(out / self._cap) * self._cap


def _within(path: str, around: str) -> bool:
    return not around or f"{path}.".startswith(f"{around}.")
