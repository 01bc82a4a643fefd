"""Holding L0 at a target by the penalty's coefficient."""

import math
from dataclasses import dataclass, replace
from typing import Any, final


@final
@dataclass
class L0Controller:
    """A proportional-integral controller of the logarithm of a sparsity coefficient, on the way to its target.

    With r_t a reference that falls from the first L0 it acts on to the target, log-linearly in `approach` steps, and
    e_t = log(L0_t / r_t), L0_t running over a few batches,

        log c_{t+1} = log c_t + gain × (e_t − e_{t−1} + e_t / horizon)          at most ±`max_change`

    The weights follow a coefficient slowly, and by Adam no faster than the learning rate lets them. So the controller
    heeds where L0 is heading, and aims at no more than a steady approach: a plain integral of the distance to the
    target would wind up to a coefficient that silences the dictionary. Between a coefficient and the L0 it leads to lie
    ten batches of Adam's momentum: where the rate is high, a large gain makes the two chase each other round the
    target, so `gain` = min(`most_gain`, `gain_times_lr` / lr), which rises again while the rate decays. `horizon` ∝
    1 / peak lr fits the loop to the speed of what it steers.

    Args:
        coefficient: to start with.
        target: L0 wanted; None leaves the coefficient alone.
        lr: Adam's peak learning rate.
        approach: steps.
    """

    coefficient: float
    target: float | None
    lr: float = 1e-3
    approach: int = 1
    l0: float = math.nan
    """Running L0; NaN before the first batch."""
    first: float = math.nan
    """L0 when the controller first acted."""
    error: float = 0.0
    """e of the last update."""
    acted: int = 0
    """Updates so far."""

    most_gain = 1.5
    gain_times_lr = 0.005
    horizon_times_lr = 0.15
    memory = 0.6
    """Share of the running L0 that each batch keeps; more of it is more delay."""
    max_change = 0.1

    def observe(self, l0: float, *, act: bool, lr: float | None = None) -> None:
        """Take in one batch's mean L0, and move the coefficient when `act`.

        Args:
            l0: mean active latents per vector of the batch.
            act: False while the coefficient is being warmed up.
            lr: this step's learning rate; None: the peak.
        """
        self.l0 = l0 if math.isnan(self.l0) else self.memory * self.l0 + (1 - self.memory) * l0
        if self.target is None or not act:
            return
        # An L0 of zero says "far too sparse", not minus infinity.
        now = max(self.l0, 1e-3 * self.target)
        if self.acted == 0:
            self.first = now
        left = max(0.0, 1 - self.acted / self.approach)
        error = math.log(now / self.target) - left * math.log(self.first / self.target)
        rise = error - self.error if self.acted else 0.0
        gain = min(self.most_gain, self.gain_times_lr / (self.lr if lr is None else lr))
        change = gain * (rise + error * self.lr / self.horizon_times_lr)
        self.coefficient *= math.exp(min(self.max_change, max(-self.max_change, change)))
        self.error = error
        self.acted += 1

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in _STATE}

    def restored(self, state: dict[str, Any]) -> "L0Controller":
        """The controller with the state of a checkpoint, in which NaN is None."""
        found = {name: math.nan if state[name] is None else float(state[name]) for name in _STATE}
        return replace(self, **{**found, "acted": int(state["acted"])})


_STATE = ("coefficient", "l0", "first", "error", "acted")
