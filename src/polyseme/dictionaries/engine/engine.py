"""One dictionary class for every architecture: hand-written gradients over (row, latent, value) entries.

In normalised units u = (x − c_x)/s_x and v = (y − c_y)/s_y, where c is the first batch's mean and s makes the mean
squared norm equal the width,

    pre = (u − b_dec) W_encᵀ + b_enc        (a transcoder, which reads another site than it writes: u W_encᵀ + b_enc)
    f   = activation(pre)                    sparse: only its entries exist
    v̂   = f W_dec + b_dec
    loss = mean_b (‖v̂ − v‖² + coefficient × penalty(f) + AuxK) / d_out

and, with g = ∂loss/∂v̂ = 2 (v̂ − v) / (batch × d_out),

    ∂f = ⟨g_b, W_dec_j⟩      ∂W_dec_j = Σ_b f_bj g_b      ∂b_dec = Σ_b g_b − W_encᵀ ∂b_enc
    ∂pre = ∂f × f′(pre)      ∂W_enc_j = Σ_b ∂pre_bj u_b   ∂b_enc = Σ_b ∂pre_b

An architecture is an `Activation`: what it selects, its values, and the way back from ∂f to ∂pre.
"""

from collections.abc import Collection
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.core.batch import Batch, Latents
from polyseme.core.records import Backend
from polyseme.dictionaries.engine.activation import Activation, Architecture, Remembers, Scheduled
from polyseme.dictionaries.engine.folding import fold
from polyseme.dictionaries.engine.given import check_finite, latents_given, vectors_given
from polyseme.dictionaries.engine.normalisation import Normalisation
from polyseme.dictionaries.engine.revive import revive
from polyseme.dictionaries.engine.second_pass import looking_again
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.dictionaries.engine.start import check_buildable, first_parameters
from polyseme.dictionaries.engine.step import loss_and_gradients
from polyseme.dictionaries.engine.thresholds import move
from polyseme.dictionaries.protocol import Direction, StepStats
from polyseme.kernels.backend import backend_in_use
from polyseme.kernels.shield import shielded
from polyseme.kernels.tiles import bag_sum
from polyseme.kernels.tuning import DEFAULT, Tuning


@final
class SparseDictionary:
    """A dictionary of any architecture: its weights, its normalisation and its training step.

    Args:
        config: its configuration.
        d_in: width of the inputs.
        d_out: width of the outputs for a transcoder, None for an autoencoder.
        seed: of the decoder's random unit rows; an autoencoder's encoder starts as its transpose, a transcoder's
            as random rows of its own, both times min(1, 2 d_in / n_latents). None: zeros, to be filled.
        device, dtype: of every tensor.
        tuning: of its operations.
        frozen: directions that training leaves as they are drawn.

    Raises:
        InputError: for a transcoder that is tied or encodes twice, a tied dictionary of which one direction is frozen,
            or a k above the number of latents.
    """

    @shielded
    def __init__(
        self,
        config: Architecture,
        d_in: int,
        d_out: int | None,
        *,
        seed: int | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tuning: Tuning = DEFAULT,
        frozen: Collection[Direction] = (),
    ):
        self.config, self.tuning = config, tuning
        self.d_in, self.d_out, self.n_latents = d_in, d_out or d_in, config.width(d_in)
        self.is_transcoder = d_out is not None
        # So scaled, the encoder makes W_decᵀ ReLU(W_enc u) ≈ u, where unit rows would make it n_latents / 2 d_in times
        # as large. It also learns faster: Adam's steps are of one size whatever the weights'.
        self._spread = spread = min(1.0, 2 * d_in / self.n_latents)
        zeros = torch.zeros(self.n_latents, device=device, dtype=dtype)
        self._activation: Activation = config.activation(zeros, spread)
        check_buildable(self._activation, is_transcoder=self.is_transcoder, frozen=frozen)
        self._encoder_name = "W_dec" if self._activation.tied else "W_enc"
        self.frozen = frozenset({"read": self._encoder_name, "write": "W_dec"}[direction] for direction in frozen)
        self._parameters = first_parameters(
            self._activation,
            d_in,
            self.d_out,
            is_transcoder=self.is_transcoder,
            like=zeros,
            spread=spread,
            seed=seed,
        )
        self._normalisation = Normalisation(d_in, self.d_out, zeros, tuning)
        self._gradients: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        k = "" if self.active_latents is None else f", k {self.active_latents:g}"
        name = type(self.config).model_fields["architecture"].default
        return f"SparseDictionary({name}, {self.d_in:,} → {self.n_latents:,} latents → {self.d_out:,}{k})"

    @property
    def backend(self) -> Backend:
        """What carries out its operations where its weights are, and why not the faster one there."""
        weight = self._parameters["W_dec"]
        return backend_in_use(weight.device, weight.dtype, self.tuning)

    @property
    def has_coefficient(self) -> bool:
        """True when sparsity is bought with a penalty's coefficient, False when it is set by k."""
        return self.config.has_coefficient

    @property
    def active_latents(self) -> float | None:
        """k, where it sets how many latents of a vector are active; None where a penalty does."""
        return self.config.active_latents

    @property
    def penalty(self) -> float | None:
        """The coefficient at the start, where sparsity is bought with a penalty; None where it is set by k."""
        return self.config.penalty

    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors, live."""
        return {name: tensor for name, tensor in self._parameters.items() if name not in self.frozen}

    def untrained(self, *, seed: int | None, frozen: Collection[Direction] = ()) -> "SparseDictionary":
        """An untrained dictionary of the same config, widths, device and tuning.

        Args:
            seed, frozen: as for `SparseDictionary`.
        """
        bias = self._parameters["b_dec"]
        return SparseDictionary(
            self.config,
            self.d_in,
            self.d_out if self.is_transcoder else None,
            seed=seed,
            device=bias.device,
            dtype=bias.dtype,
            tuning=self.tuning,
            frozen=frozen,
        )

    def weights(self) -> dict[str, Tensor]:
        """What a folded dictionary is made of: `tensors()` without normalisation and state of training, live."""
        return {**self._parameters, **self._activation.buffers}

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer, live; copy into them in place to restore."""
        return {**self.weights(), **self._activation.carried, **self._normalisation.tensors}

    @shielded
    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*leading d_in"] | Float[np.ndarray, "*leading d_in"]) -> Latents:
        """The active latents of raw vectors, in units in which a write direction has norm 1; the result has the axes
        of `x` before the last.

        Raises:
            InputError: when the vectors are not as wide as the dictionary, or one of them is not finite: none of its
                latents is active or inactive, so it is named instead.
        """
        x = vectors_given(x, self.d_in)
        leading, x = tuple(x.shape[:-1]), x.reshape(-1, self.d_in) if x.shape[-1:] == (self.d_in,) else x
        u = self._normalisation.apply(x, "in")
        check_finite(u)
        encoder = self._looking_again(self._encoder(u), training=False)
        entries = self._activation.select(encoder, training=False)
        assert entries is not None, "an inference selection is always sparse"
        values, indices, offsets = self._activation.values(entries, encoder.bias), entries.indices, entries.offsets
        keep = values != 0
        if not bool(keep.all()):
            counts = torch.bincount(entries.bags[keep], minlength=len(offsets) - 1)
            values, indices, offsets = values[keep], indices[keep], offsets.new_zeros(len(offsets))
            torch.cumsum(counts, 0, out=offsets[1:])
        return Latents(values * self._gain()[indices], indices, offsets.to(torch.int64), self.n_latents, leading)

    @shielded
    @torch.no_grad()
    def decode(self, z: Latents | Float[Tensor, "*leading n_latents"]) -> Float[Tensor, "*leading d_out"]:
        """The raw vectors that latents stand for: Σ z_i × write_directions[i] + bias; a row with an entry that is not
        finite is not finite, and changes no other.

        Raises:
            InputError: when the latents are another dictionary's, or no latents.
        """
        z = latents_given(z, self.n_latents)
        W_dec, indices = self._parameters["W_dec"], z.indices.to(torch.int32).contiguous()
        values = z.values.to(W_dec.dtype).contiguous()
        if not self._activation.unit_norm:
            values = values / self._norms()[indices]
        units = self._normalisation.tensors
        bias = units["scale_out"] * self._parameters["b_dec"] + units["centre_out"]
        return bag_sum(W_dec, indices, z.offsets, values, tuning=self.tuning).add_(bias).view(*z.shape[:-1], self.d_out)

    def reconstruct(
        self, x: Float[Tensor, "*leading d_in"] | Float[np.ndarray, "*leading d_in"]
    ) -> Float[Tensor, "*leading d_out"]:
        """decode(encode(x))."""
        return self.decode(self.encode(x))

    def read_directions(self) -> Float[Tensor, "n_latents d_in"]:
        """The encoder's rows for raw activations."""
        gain = self._gain() / self._normalisation.tensors["scale_in"]
        return self._parameters[self._encoder_name] * gain[:, None]

    def write_directions(self) -> Float[Tensor, "n_latents d_out"]:
        """The decoder's rows, of norm 1: what one unit of a latent adds."""
        return self._parameters["W_dec"] / self._norms()[:, None]

    @property
    def is_initialised(self) -> bool:
        """True once it has taken a centre and scale; a folded dictionary has none of its own."""
        return self._normalisation.is_taken

    @shielded
    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        """Take centre and scale of inputs and targets from the first batch (`Normalisation`).

        Raises:
            InputError: when the vectors are not finite, all alike, or not as wide as the dictionary.
        """
        self._normalisation.take(batch)

    @shielded
    @torch.no_grad()
    def accumulate(
        self,
        batch: Batch,
        *,
        progress: float,
        dead: Bool[Tensor, " n_latents"] | None,
        coefficient: float,
    ) -> StepStats:
        """Set `.grad` of every parameter to the gradient of the loss on this batch.

        Args:
            batch: raw activations; `y is x` for an autoencoder.
            progress: share of the training done, 0 to 1.
            dead: latents that have not fired for long; None: no AuxK.
            coefficient: of the penalty; ignored by architectures with a k.

        Raises:
            InputError: when the vectors are not as wide as the dictionary.
        """
        self._schedule(progress)
        encoder, goal = self._encoder_and_goal(batch.x, batch.y, training=True)
        return loss_and_gradients(
            encoder,
            goal,
            self._activation,
            self._parameters["W_dec"],
            self._attached_gradients(),
            self._encoder_name,
            is_transcoder=self.is_transcoder,
            dead=dead,
            coefficient=coefficient,
        )

    @shielded
    @torch.no_grad()
    def after_step(self) -> None:
        """Renormalise decoder rows, where the architecture keeps them at norm 1, and take in what the step found."""
        if isinstance(self._activation, Remembers):
            self._activation.stepped()
        if self._activation.unit_norm and "W_dec" not in self.frozen:
            W_dec = self._parameters["W_dec"]
            W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True).clamp_(min=torch.finfo(W_dec.dtype).tiny))

    @shielded
    @torch.no_grad()
    def revive(
        self,
        batch: Batch,
        latents: Int[Tensor, " some"],
        *,
        live: Bool[Tensor, " n_latents"],
        progress: float,
        generator: torch.Generator,
    ) -> Int[Tensor, " revived"]:
        """Make dead latents again, each from the error of a vector that it will be active on (`engine.revive`).

        Args:
            batch: raw activations, of which the first quarter is looked at, or eight vectors a latent.
            latents: to be made again, in order of precedence.
            live: latents that are not dead.
            progress: share of the training done, 0 to 1.
            generator: on the CPU, decides which vectors are taken.

        Returns:
            Those that were: fewer where too few vectors are reconstructed badly enough.

        Raises:
            InputError: when the vectors are not as wide as the dictionary.
        """
        self._schedule(progress)
        n = max(-(-len(batch.x) // 4), 8 * len(latents))
        x = batch.x[:n]
        encoder, goal = self._encoder_and_goal(x, x if batch.y is batch.x else batch.y[:n], training=False)
        return revive(
            encoder,
            goal,
            self._activation,
            self._parameters,
            self._encoder_name,
            latents,
            live=live,
            frozen=self.frozen,
            reads_target=not self.is_transcoder,
            spread=self._spread,
            generator=generator,
        )

    @shielded
    @torch.no_grad()
    def move_thresholds(self, share: float, stats: StepStats) -> None:
        """Raise the thresholds of the latents that were active in a step by a share, or lower those of all latents
        (`engine.thresholds`).

        Args:
            share: below 0: lower.
            stats: of the step.
        """
        move(share, self._activation, self._parameters, fired=stats.fired, l0=stats.l0)

    @shielded
    @torch.no_grad()
    def folded(self) -> "SparseDictionary":
        """A copy that takes raw activations with no normalisation of its own, and whose decoder rows have norm 1
        (`engine.folding`)."""
        new = self.untrained(seed=None)
        fold(
            self.tensors(),
            self._encoder_name,
            is_transcoder=self.is_transcoder,
            into=new.weights(),
            activation=new._activation,
        )
        return new

    def _norms(self) -> Float[Tensor, " n_latents"]:
        """Decoder norms where they are free (never zero), ones where they are constrained."""
        return self._activation.decoder_norms(self._parameters["W_dec"])

    def _gain(self) -> Float[Tensor, " n_latents"]:
        """Raw units per unit of a normalised activation."""
        return self._norms() * self._normalisation.tensors["scale_out"]

    def _encoder(self, x: Float[Tensor, "batch d_in"]) -> Encoder:
        """The encoder over normalised vectors, which an autoencoder's bias is taken from in place."""
        if not self.is_transcoder:
            x.sub_(self._parameters["b_dec"])
        return Encoder(
            x,
            self._parameters[self._encoder_name],
            self._parameters["b_enc"],
            self.config.selection,
            tuning=self.tuning,
        )

    def _schedule(self, progress: float) -> None:
        """Select as at this share of the training."""
        if isinstance(self._activation, Scheduled):
            self._activation.at(progress)

    def _looking_again(self, encoder: Encoder, *, training: bool) -> Encoder:
        """The encoder of what the second pass reads, where there is one."""
        return looking_again(encoder, self._activation, self._parameters["W_dec"], training=training)

    def _encoder_and_goal(
        self, x: Tensor, y: Tensor, *, training: bool
    ) -> tuple[Encoder, Float[Tensor, "batch d_out"]]:
        """The encoder over raw inputs, and what its codes are to add up to: v − b_dec."""
        encoder = self._encoder(self._normalisation.apply(x, "in"))
        goal = encoder.x
        if self.is_transcoder or y is not x:
            goal = self._normalisation.apply(y, "out").sub_(self._parameters["b_dec"])
        return self._looking_again(encoder, training=training), goal

    def _attached_gradients(self) -> dict[str, Tensor]:
        """Every parameter's `.grad`, to be overwritten; where there is none (an optimiser's zero_grad may have dropped
        it) the one of before is put back."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                kept = self._gradients.get(name)
                parameter.grad = torch.empty_like(parameter) if kept is None else kept
            self._gradients[name] = parameter.grad
        return self._gradients
