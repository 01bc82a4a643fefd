"""Holding L0 at a target by the penalty's coefficient."""

import math
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass
class L0Controller:
    """A proportional-integral controller of the logarithm of a sparsity coefficient.

    With e_t = log(L0_t / target), L0_t running over a few batches and e clipped to ±`max_error`,

        log c_{t+1} = log c_t + integral × e_t + proportional × (e_t − e_{t−1})

    Logarithms make it scale-free: the same gains serve any data, width and target. The proportional part answers the
    lag with which weights follow the coefficient; without it the loop rings.

    Args:
        coefficient: to start with.
        target: L0 wanted; None leaves the coefficient alone.
    """

    coefficient: float
    target: float | None
    l0: float = math.nan
    """Running L0; NaN before the first batch."""
    error: float = 0.0
    """e of the last update."""

    integral = 0.02
    proportional = 1.0
    memory = 0.8
    """Share of the running L0 that each batch keeps."""
    max_error = 1.0

    def observe(self, l0: float, *, act: bool) -> None:
        """Take in one batch's mean L0, and move the coefficient when `act`."""
        self.l0 = l0 if math.isnan(self.l0) else self.memory * self.l0 + (1 - self.memory) * l0
        if self.target is None:
            return
        # An L0 of zero says "far too sparse", not minus infinity.
        error = math.log(max(self.l0, 1e-3 * self.target) / self.target)
        error = min(self.max_error, max(-self.max_error, error))
        if act:
            change = self.integral * error + self.proportional * (error - self.error)
            self.coefficient *= math.exp(change)
        self.error = error

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"coefficient": self.coefficient, "l0": self.l0, "error": self.error}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.coefficient, self.error = float(state["coefficient"]), float(state["error"])
        self.l0 = math.nan if state["l0"] is None else float(state["l0"])
