"""How long, how fast and how sparse."""

from pydantic import Field

from polyseme.core.config import Config, Count, Rate, Share, Width


class LeaveOutConfig(Config):
    """Which vectors training leaves out: they are in no gradient, no normalisation and no mean.

    A dictionary trained without them is applied to them as to any other vector.
    """

    norm: float | None = Field(default=None, gt=1, le=1e6)
    """Leave out massive vectors: those farther from the site's centre, its coordinate-wise median, than this factor
    times the median distance (10 is a good value). None: no vector is left out by norm."""
    positions: int = Field(default=0, ge=0, le=2**24)
    """Number of positions to leave out at the start of each window, those of special tokens included."""


class TrainingConfig(Config):
    """One pass of training over an activation source, for all its dictionaries."""

    n_tokens: Count | None = None
    """Tokens to train on; beyond what the source has, they are repeated in a new order. None: every token once."""
    batch_size: Width = 2048
    """Tokens in a step."""
    lr: Rate | None = None
    """Adam's learning rate at its plateau. None chooses it by width and length: 4e-3 for 1024 latents and 400 steps."""
    warmup: Share = 0.05
    """Share of the steps, at the start, over which the learning rate rises."""
    decay: Share = 0.2
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of Adam's running mean of the gradient."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of Adam's running mean of the squared gradient."""
    clip: float | None = Field(default=1.0, gt=0, le=1e6)
    """Largest norm of a dictionary's whole gradient; larger ones are scaled down. None: no clipping."""
    target_l0: float | None = Field(default=None, gt=0, le=2**24)
    """Target for the mean number of active latents per vector: thresholds and coefficient of relu, jumprelu and gated
    are adjusted to hold it; for other architectures it must equal k."""
    sparsity_warmup: Share = 0.1
    """Share of the steps over which the sparsity coefficient rises from zero; a target L0 is approached over twice as
    many."""
    dead_after: Count | None = None
    """Number of tokens without firing after which a latent counts as dead. None: a twentieth of the training's tokens,
    at most 10 million."""
    revive: Share = 0.02
    """Largest share of the latents, where they are dead, that is revived at a time, each latent from a vector that is
    reconstructed badly; every tenth step, after the warm-ups and before the last half of the learning rate's decay.
    0: none is."""
    leave_out: LeaveOutConfig = LeaveOutConfig()
    """Vectors that are not trained on."""
    checkpoint_seconds: float = Field(default=60.0, ge=0, le=1e9)
    """Seconds between checkpoints, which change nothing in the result. 0: a checkpoint after every step."""
