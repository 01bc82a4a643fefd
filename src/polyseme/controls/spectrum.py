"""Control: every weight matrix W = USVᵀ turned into QSRᵀ with Haar-random Q and R."""

from typing import ClassVar, Literal

from polyseme.controls.reinit import Reinit, WeightControl


class SpectrumReinit(WeightControl):
    """Every weight matrix W = USVᵀ turned into QSRᵀ with Haar-random Q and R."""

    kept: ClassVar[str] = "each weight matrix's singular values; biases and norms"
    lost: ClassVar[str] = "singular directions, and so everything that depends on how layers fit each other"
    reinit: ClassVar[Reinit] = "spectrum"

    kind: Literal["spectrum_reinit"] = "spectrum_reinit"
