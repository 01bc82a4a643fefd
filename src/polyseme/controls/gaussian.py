"""Control: every weight tensor drawn again from a Gaussian of its own mean and standard deviation."""

from typing import ClassVar, Literal

from polyseme.controls.reinit import Reinit, WeightControl


class GaussianReinit(WeightControl):
    """Every weight tensor drawn again from a Gaussian of its own mean and standard deviation."""

    kept: ClassVar[str] = "each weight tensor's shape, mean and standard deviation; biases and norms"
    lost: ClassVar[str] = "spectra, directions and everything that was learned"
    reinit: ClassVar[Reinit] = "gaussian"

    kind: Literal["gaussian_reinit"] = "gaussian_reinit"
