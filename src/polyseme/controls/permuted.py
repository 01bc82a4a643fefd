"""Control: every weight tensor's entries permuted at random."""

from typing import ClassVar, Literal

from polyseme.controls.reinit import Reinit, WeightControl


class PermutedWeights(WeightControl):
    """Every weight tensor's entries permuted at random."""

    kept: ClassVar[str] = "each weight tensor's exact histogram of entries; biases and norms"
    lost: ClassVar[str] = "where each entry stands, and so spectra and directions"
    reinit: ClassVar[Reinit] = "permuted"

    kind: Literal["permuted_weights"] = "permuted_weights"
