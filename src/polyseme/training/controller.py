"""Holding L0 at a target: thresholds at once, the penalty's coefficient after them."""

import math
from dataclasses import dataclass, replace
from typing import Any, final


@final
@dataclass
class L0Controller:
    """Two loops, a fast one over the thresholds and a slow one over the coefficient, on the way to a target L0.

    With r_t a reference that falls from the first L0 it acts on to the target, log-linearly in `approach` steps, and
    e_t = log(L0_t / r_t), L0_t running over a few batches,

        thresholds rise by the share s_t = `gain` × √(lr_t / peak lr) × e_t      at most ±`most`
        log c_{t+1} = log c_t + `coefficient_gain` × s_t / pace            at most ±`coefficient_gain`

    `SparseDictionary.move_thresholds` says what rises. L0 follows a coefficient only after the weights do, tens of
    steps later; a loop over the coefficient alone has overshot by then, and latents that a coefficient far above its
    final value has silenced stay silent. L0 follows a threshold at once. The coefficient takes over what the thresholds
    would have to be moved by again and again: it rests where the penalty and the reconstruction hold L0 by themselves.
    Where the data give it no such value (more latents are asked for than they have features), or the learning rate has
    fallen to zero, the thresholds still do.

    Args:
        coefficient: to start with.
        target: L0 wanted; None leaves all as it is.
        pace: share of a typical pre-activation by which Adam moves a threshold in a step.
        approach: steps.
    """

    coefficient: float
    target: float | None
    pace: float = 0.03
    approach: int = 1
    l0: float = math.nan
    """Running L0; NaN before the first batch."""
    first: float = math.nan
    """L0 when the controller first acted."""
    acted: int = 0
    """Updates so far."""

    gain = 0.2
    most = 0.1
    coefficient_gain = 0.05
    memory = 0.6
    """Share of the running L0 that each batch keeps; more of it is more delay."""

    def observe(self, l0: float, *, act: bool, rate: float = 1.0) -> float:
        """Take in one batch's mean L0; when `act`, move the coefficient.

        Args:
            l0: mean active latents per vector of the batch.
            act: False while the coefficient is being warmed up.
            rate: this step's learning rate over the peak. While it falls the weights move less, and the thresholds come
                to average over more batches.

        Returns:
            The share by which the thresholds are to rise; 0 where there is nothing to do.
        """
        self.l0 = l0 if math.isnan(self.l0) else self.memory * self.l0 + (1 - self.memory) * l0
        if self.target is None or not act:
            return 0.0
        # An L0 of zero says "far too sparse", not minus infinity.
        now = max(self.l0, 1e-3 * self.target)
        if self.acted == 0:
            self.first = now
        left = max(0.0, 1 - self.acted / self.approach)
        error = math.log(now / self.target) - left * math.log(self.first / self.target)
        self.acted += 1
        share = min(self.most, max(-self.most, self.gain * math.sqrt(rate) * error))
        self.coefficient *= math.exp(self.coefficient_gain * min(1.0, max(-1.0, share / self.pace)))
        return share

    @property
    def misses(self) -> bool:
        """True where the running L0 is more than a tenth from the target."""
        return self.target is not None and not abs(self.l0 / self.target - 1) <= 0.1

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in _STATE}

    def restored(self, state: dict[str, Any]) -> "L0Controller":
        """The controller with the state of a checkpoint, in which NaN is None."""
        found = {name: math.nan if state[name] is None else float(state[name]) for name in _STATE}
        return replace(self, **{**found, "acted": int(state["acted"])})


_STATE = ("coefficient", "l0", "first", "acted")
