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
from polyseme.core.errors import InputError
from polyseme.core.precision import wide
from polyseme.core.records import Backend
from polyseme.core.seeds import make_generator
from polyseme.dictionaries.engine.activation import (
    Activation,
    Architecture,
    Finishes,
    HasThresholds,
    LooksTwice,
    Remembers,
    Scheduled,
    Step,
)
from polyseme.dictionaries.engine.auxk import auxk
from polyseme.dictionaries.engine.entries import Gradients
from polyseme.dictionaries.engine.gradients import from_blocks, from_entries
from polyseme.dictionaries.engine.normalisation import Normalisation
from polyseme.dictionaries.engine.pieces import pieces
from polyseme.dictionaries.engine.revive import revive
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.dictionaries.engine.twice import look_again
from polyseme.dictionaries.protocol import Direction, StepStats
from polyseme.kernels.backend import backend_in_use
from polyseme.kernels.loops import check_offsets, check_places
from polyseme.kernels.shield import shielded
from polyseme.kernels.tiles import bag_sum, sum_of_squares
from polyseme.kernels.tuning import DEFAULT, Tuning
from polyseme.kernels.workspace import scratch


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
        InputError: for a tied transcoder, a tied dictionary of which one direction is frozen, or a k above the number
            of latents.
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
        if self._activation.tied and self.is_transcoder:
            raise InputError(
                "a transcoder cannot be tied",
                where="dictionary.tie_weights",
                fix="set it to false, or train an autoencoder",
            )
        if isinstance(self._activation, LooksTwice) and self._activation.eta and self.is_transcoder:
            raise InputError(
                "a transcoder's residual is not where it reads, so it cannot be encoded again",
                where="dictionary.eta",
                fix="set it to 0, or train an autoencoder",
            )
        if self._activation.tied:
            check_tied(frozen)
        self._encoder_name = "W_dec" if self._activation.tied else "W_enc"
        self.frozen = frozenset({"read": self._encoder_name, "write": "W_dec"}[direction] for direction in frozen)

        def unit_rows(name: str, width: int) -> Tensor:
            if seed is None:
                return torch.zeros(self.n_latents, width, device=device, dtype=dtype)
            rows = torch.randn(self.n_latents, width, generator=make_generator(seed, name), dtype=torch.float32)
            return torch.nn.functional.normalize(rows, dim=1).to(device, dtype)

        W_dec = unit_rows("W_dec", self.d_out)
        self._parameters = {
            "W_dec": W_dec,
            "b_enc": W_dec.new_zeros(self.n_latents),
            "b_dec": W_dec.new_zeros(self.d_out),
            **self._activation.parameters,
        }
        if not self._activation.tied:
            self._parameters["W_enc"] = (unit_rows("W_enc", d_in) if self.is_transcoder else W_dec) * spread
        self._normalisation = Normalisation(d_in, self.d_out, W_dec, tuning)
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
        x = self._tensor(x)
        leading, x = tuple(x.shape[:-1]), x.reshape(-1, self.d_in) if x.shape[-1:] == (self.d_in,) else x
        u = self._normalisation.apply(x, "in")
        # A sum is finite only where all its terms are; finite terms whose sum overflows are looked at one by one.
        if not bool(torch.isfinite(u.sum())):
            bad = (~torch.isfinite(u)).any(dim=1).nonzero().view(-1)
            if len(bad):
                which = f"{len(bad)} of {len(x)} vectors, row {int(bad[0])} the first"
                raise InputError(
                    f"{which}, hold NaN, infinities or numbers too large",
                    where="encode",
                    fix="leave those vectors out, x[x.isfinite().all(-1)], or read the network in float32",
                )
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
        z = Latents.from_dense(z) if isinstance(z, Tensor) else z
        if z.n_latents != self.n_latents:
            raise InputError(
                f"latents of a dictionary with {z.n_latents}, given to one with {self.n_latents}",
                where="decode",
                fix="decode latents with the dictionary that encoded them",
            )
        if z.values.shape != z.indices.shape or z.values.dim() != 1 or z.offsets.dim() != 1:
            raise InputError(
                f"{list(z.values.shape)} values for {list(z.indices.shape)} indices",
                where="decode",
                fix="give each entry a value and a latent",
            )
        check_places("decode, latents", z.indices, self.n_latents)
        check_offsets("decode, offsets", z.offsets, len(z.indices))
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
        if isinstance(self._activation, Scheduled):
            self._activation.at(progress)
        encoder, goal = self._encoder_and_goal(batch.x, batch.y, training=True)
        grads = Gradients(self._attached_gradients())
        fired = torch.zeros(self.n_latents, dtype=torch.int64, device=goal.device)
        step = Step(
            goal,
            encoder.bias,
            self._parameters["W_dec"],
            grads,
            self._encoder_name,
            per_row=1 / goal.numel(),
            coefficient=coefficient,
            d_bias=goal.new_zeros(self.n_latents),
            fired=fired,
            tuning=self.tuning,
        )
        residual = scratch("residual", goal, goal.dtype)
        for rows, codes in pieces(encoder, self._activation):
            step.goal = goal[rows]
            if isinstance(codes, Encoder):
                from_blocks(codes, self._activation, step, residual[rows])
            else:
                from_entries(codes, encoder.x[rows], self._activation, step, residual[rows])
            del codes  # and what it has worked out, before the next are looked for
        if isinstance(self._activation, Finishes):
            self._activation.finish(step)

        k_aux = self.d_out // 2 if self._activation.k_aux is None else self._activation.k_aux
        if dead is not None and k_aux > 0:
            weight = self._activation.aux_coefficient * step.per_row
            step.aux = step.aux + auxk(encoder, residual, step, dead, k_aux, weight)
        if not self.is_transcoder:
            grads.add("b_dec", -(encoder.weight.t() @ step.d_bias))
        grads.finish()
        if self._activation.unit_norm:
            self._project(grads["W_dec"])

        # About centred, so float32 is exact enough for a mean; a sum in float64 converts all of it first.
        mean = wide(torch.mv(goal.t(), goal.new_ones(len(goal)))) / len(goal)
        total = wide(sum_of_squares(goal)) - len(goal) * mean.square().sum()
        sse = wide(sum_of_squares(residual))
        mse, sparsity, aux = (goal.new_zeros(()) + part for part in (step.mse, step.sparsity, step.aux))
        l0 = fired.sum().to(goal.dtype) / len(goal)
        return StepStats(mse + sparsity + aux, mse, sparsity, aux, l0, fired, sse, total, len(goal))

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
        generator: torch.Generator,
    ) -> Int[Tensor, " revived"]:
        """Make dead latents again, each from the error of a vector that it will be active on (`engine.revive`).

        Args:
            batch: raw activations, of which the first quarter is looked at, or eight vectors a latent.
            latents: to be made again, in order of precedence.
            live: latents that are not dead.
            generator: on the CPU, decides which vectors are taken.

        Returns:
            Those that were: fewer where too few vectors are reconstructed badly enough.

        Raises:
            InputError: when the vectors are not as wide as the dictionary.
        """
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
        """Raise the thresholds of the latents that were active in a step by a share, or lower those of all latents.

        A threshold θ becomes θ exp(share). Where latents are active above 0, b_enc falls by share × ½ √(d_out / L0) /
        ‖W_dec_j‖: L0 latents that write a vector of mean squared norm d_out write about √(d_out / L0) each, and an L1
        penalty shrinks them.

        Silent latents take no part in a rise. L0 does not need it, and they would fall farther behind at each step in
        which the others' gradients pull the other way; taking part in a fall is what brings them back.

        Args:
            share: below 0: lower.
            stats: of the step.
        """
        b_enc = self._parameters["b_enc"]
        shares = (stats.fired > 0).to(b_enc.dtype) * share if share > 0 else torch.full_like(b_enc, share)
        if isinstance(self._activation, HasThresholds):
            self._activation.raise_thresholds(shares)
        else:
            size = (self.d_out / wide(stats.l0).clamp(min=1e-3)).sqrt().to(b_enc.dtype) / 2
            b_enc.sub_(shares * size / self._norms())

    @shielded
    @torch.no_grad()
    def folded(self) -> "SparseDictionary":
        """A copy that takes raw activations with no normalisation of its own, and whose decoder rows have norm 1.

        With gain_j = s_y‖W_dec_j‖: W_enc′_j = gain_j W_enc_j / s_x, b_enc′ = gain b_enc (a transcoder: less
        gain W_enc c_x / s_x), b_dec′ = s_y b_dec + c_y, thresholds × gain; computed in float64.
        """
        own = {name: wide(tensor) for name, tensor in self.tensors().items()}
        norms = wide(self._norms())
        gain = norms * own["scale_out"]
        new = self.untrained(seed=None)
        for name, tensor in new._activation.parameters.items():
            tensor.copy_(self._parameters[name])
        for name, tensor in new._activation.buffers.items():
            tensor.copy_(self._activation.buffers[name])
        W_enc = own[self._encoder_name]
        shift = torch.zeros_like(own["b_enc"])
        if self.is_transcoder:
            shift -= W_enc @ (own["centre_in"] / own["scale_in"])
        new._activation.fold(gain, shift)
        new._parameters["W_dec"].copy_(own["W_dec"] / norms[:, None])
        if self._encoder_name == "W_enc":
            new._parameters["W_enc"].copy_(W_enc * (gain / own["scale_in"])[:, None])
        new._parameters["b_enc"].copy_((own["b_enc"] + shift) * gain)
        new._parameters["b_dec"].copy_(own["b_dec"] * own["scale_out"] + own["centre_out"])
        return new

    def _norms(self) -> Float[Tensor, " n_latents"]:
        """Decoder norms where they are free (never zero), ones where they are constrained."""
        W_dec = self._parameters["W_dec"]
        if self._activation.unit_norm:
            return W_dec.new_ones(self.n_latents)
        return torch.linalg.vector_norm(W_dec, dim=1).clamp_(min=1e-30)

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

    def _looking_again(self, encoder: Encoder, *, training: bool) -> Encoder:
        """The encoder of what the second pass of an activation that has one reads."""
        activation = self._activation
        if not isinstance(activation, LooksTwice) or not activation.eta:
            return encoder
        return look_again(encoder, activation, self._parameters["W_dec"], training=training)

    def _encoder_and_goal(
        self, x: Tensor, y: Tensor, *, training: bool
    ) -> tuple[Encoder, Float[Tensor, "batch d_out"]]:
        """The encoder over raw inputs, and what its codes are to add up to: v − b_dec."""
        encoder = self._encoder(self._normalisation.apply(x, "in"))
        goal = encoder.x
        if self.is_transcoder or y is not x:
            goal = self._normalisation.apply(y, "out").sub_(self._parameters["b_dec"])
        return self._looking_again(encoder, training=training), goal

    def _tensor(self, x: object) -> Tensor:
        """What is to be encoded, as a tensor."""
        if isinstance(x, np.ndarray):
            return torch.from_numpy(x.copy())
        if not isinstance(x, Tensor):
            fix = "give the tensor of one site's vectors"
            raise InputError(f"expected vectors [..., {self.d_in}], got a {type(x).__name__}", where="encode", fix=fix)
        return x

    def _attached_gradients(self) -> dict[str, Tensor]:
        """Every parameter's `.grad`, to be overwritten; where there is none (an optimiser's zero_grad may have dropped
        it) the one of before is put back."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                kept = self._gradients.get(name)
                parameter.grad = torch.empty_like(parameter) if kept is None else kept
            self._gradients[name] = parameter.grad
        return self._gradients

    def _project(self, gradient: Float[Tensor, "n_latents d_out"]) -> None:
        """Remove from each decoder row's gradient its part along the row."""
        W_dec = self._parameters["W_dec"]
        for part in self.tuning.tiles_of(W_dec, 16):
            along = torch.linalg.vecdot(gradient[part], W_dec[part])
            gradient[part].addcmul_(along[:, None], W_dec[part], value=-1)


def check_tied(frozen: Collection[Direction]) -> None:
    """Refuse to freeze one direction of a tied dictionary and train the other.

    Raises:
        InputError: one direction is frozen.
    """
    if len(frozen) == 1:
        raise InputError(
            f"a tied dictionary reads and writes along the same directions, so its {next(iter(frozen))} directions "
            "cannot be frozen alone",
            where="dictionary.tie_weights",
            fix="set it to false, or freeze both",
        )
