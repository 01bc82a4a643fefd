"""Learning rate and sparsity warm-up as pure functions of the step: nothing to save, nothing to drift on resume."""

import math


def learning_rate(step: int, n_steps: int, *, peak: float, warmup: int, decay: int) -> float:
    """Linear warm-up, a plateau, linear decay to zero.

        lr(t) = peak × min(1, (t + 1) / warmup, (n_steps − t) / decay)

    Args:
        step: t, from 0; the rate of the update that follows batch t.
        n_steps: of the training.
        peak: the plateau's rate.
        warmup, decay: steps; 0 for none.
    """
    factor = 1.0
    if warmup:
        factor = min(factor, (step + 1) / warmup)
    if decay:
        factor = min(factor, (n_steps - step) / decay)
    return peak * factor


def ramp(step: int, warmup: int) -> float:
    """min(1, t / warmup): what a sparsity coefficient is multiplied by at the start."""
    return min(1.0, step / warmup) if warmup else 1.0


def auto_learning_rate(n_latents: int) -> float:
    """1e-3 × √(2048 / n_latents), at most 1e-3.

    The square-root law is that of Gao et al. 2024, Scaling and evaluating sparse autoencoders, section 2.3; its
    constant, 2e-4 at 2¹⁴ latents, was found on billions of tokens, and short trainings want a little more.
    """
    return min(1e-3, 1e-3 * math.sqrt(2048 / n_latents))
