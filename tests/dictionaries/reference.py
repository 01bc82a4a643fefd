"""Every architecture again, dense and by autograd: what the engine's hand-written gradients must equal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyseme.core.batch import Batch
from polyseme.dictionaries import (
    ARCHITECTURES,
    GatedConfig,
    ISTAConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    SparseDictionary,
    TopKConfig,
)
from polyseme.dictionaries.base import DictionaryBase, RevivedBase
from polyseme.dictionaries.engine.activation import Scheduled


def make_batch(x: Tensor, y: Tensor | None = None) -> Batch:
    ids = torch.arange(len(x))
    return Batch(x, x if y is None else y, ids, ids, ids)


SMALL: dict[str, Callable[[int, int], DictionaryBase]] = {
    "relu": lambda n, k: ReLUConfig(n_latents=n),
    "relu tied": lambda n, k: ReLUConfig(n_latents=n, tie_weights=True),
    "topk": lambda n, k: TopKConfig(n_latents=n, k=k, k_aux=3),
    "batch_topk": lambda n, k: ARCHITECTURES["batch_topk"].model_validate({"n_latents": n, "k": k, "k_aux": 3}),
    "jumprelu": lambda n, k: JumpReLUConfig(n_latents=n, k_aux=3),
    "gated": lambda n, k: GatedConfig(n_latents=n),
    "ista": lambda n, k: ISTAConfig(n_latents=n, k=k, k_aux=3, k_start=1.5),
    "ista nested": lambda n, k: ISTAConfig(
        n_latents=n, k=k, k_aux=3, k_start=1.5, prefixes=(0.25, 0.5, 1.0), nesting="detached_by_frequency"
    ),
    "matryoshka": lambda n, k: MatryoshkaConfig(n_latents=n, k=k, k_aux=3, prefixes=(0.25, 0.5, 1.0)),
}
"""A small config of every architecture from (n_latents, k); the suites run over its keys."""

AUTOENCODERS = ("relu tied", "ista", "ista nested")
"""Those that cannot be transcoders."""


def scramble(dictionary: SparseDictionary, seed: int) -> None:
    """Move every parameter off its start, so that no gradient is right by symmetry; constraints restored."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(dictionary.parameters().items()):
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        tensor.add_(noise, alpha=0.3 if tensor.dim() == 1 else 0.1)
        if name == "log_threshold":
            tensor.clamp_(max=0.5)
    dictionary.after_step()
    if "frequency" in dictionary.tensors():
        dictionary.tensors()["frequency"].uniform_(generator=generator)


def chosen_in_training(dictionary: SparseDictionary, batch: Batch, progress: float = 0.0) -> Tensor:
    """[B, n], true where a training step lets a latent be active; nothing for the architectures without a k.

    Inference is another matter: of equal pre-activations it may choose others, and BatchTopK chooses over the batch in
    training alone.
    """
    chosen = torch.zeros(len(batch.x), dictionary.n_latents, dtype=torch.bool, device=batch.x.device)
    if isinstance(dictionary._activation, Scheduled):
        dictionary._activation.at(progress)
    if not dictionary.config.has_coefficient:
        encoder = dictionary._encoder(dictionary._normalisation.apply(batch.x, "in"))
        found = dictionary._activation.select(dictionary._looking_again(encoder, training=True), training=True)
        chosen[found.bags.long(), found.indices.long()] = True
    return chosen


class _Jump(torch.autograd.Function):
    """pre · H(pre − θ) with the straight-through gradient in θ."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        kernel = ((pre - threshold) / ctx.bandwidth).abs() < 0.5
        d_threshold = (-(threshold / ctx.bandwidth) * kernel * g).sum(0)
        return g * (pre > threshold), d_threshold, None


class _Step(torch.autograd.Function):
    """H(pre − θ) with the straight-through gradient in θ, none in pre."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        kernel = ((pre - threshold) / ctx.bandwidth).abs() < 0.5
        return None, (-(1 / ctx.bandwidth) * kernel * g).sum(0), None


@dataclass
class Expected:
    """Loss parts and gradients of the dense version."""

    mse: Tensor
    sparsity: Tensor
    aux: Tensor
    grads: dict[str, Tensor]
    pre: Tensor
    values: Tensor


def codes(dictionary: SparseDictionary, p: Mapping[str, Tensor], pre: Tensor, chosen: Tensor | None) -> Tensor:
    """[B, n] f from pre-activations, dense, at the entries of `chosen` where the architecture picks by rank."""
    config = dictionary.config
    if isinstance(config, JumpReLUConfig):
        return _Jump.apply(pre, p["log_threshold"].exp(), config.bandwidth)
    if isinstance(config, GatedConfig):
        return (pre > 0) * ((pre - p["b_enc"]) * p["r_mag"].exp() + p["b_mag"]).relu()
    return pre.relu() if config.has_coefficient else pre.relu() * chosen


def looked_again(config: ISTAConfig, p: Mapping[str, Tensor], u: Tensor, first: Tensor) -> Tensor:
    """[B, d] what the second pass reads, from the entries of the first."""
    z = (u @ p["W_enc"].T + p["b_enc"]).relu() * first
    return u + (config.eta * (u - z @ p["W_dec"])).detach()


def reference(
    dictionary: SparseDictionary,
    batch: Batch,
    *,
    coefficient: float,
    dead: Tensor | None,
    chosen: Tensor | None,
    dtype: torch.dtype | None = None,
    nudge: torch.Generator | None = None,
) -> Expected:
    """One step by autograd, everything dense.

    Args:
        chosen: for the architectures with a k, the entries the engine chose (ties are its to break).
        dtype: computed in; the dictionary's own by default.
        nudge: moves every number of parameters and batch at random, by a rounding of the dictionary's dtype.
    """
    config, state = dictionary.config, dictionary.tensors()

    def taken(t: Tensor) -> Tensor:
        """A number as the step sees it: in the asked dtype, moved if asked."""
        wide = t.detach().to(state["b_dec"].dtype).to(dtype or state["b_dec"].dtype, copy=True)
        if nudge is not None:
            noise = torch.randn(t.shape, generator=nudge, dtype=torch.float64).to(wide)
            wide.mul_(1 + noise * torch.finfo(state["b_dec"].dtype).eps / 2)
        return wide

    p = {name: taken(t).requires_grad_() for name, t in dictionary.parameters().items()}
    x = (taken(batch.x) - state["centre_in"]) / state["scale_in"]
    v = (taken(batch.y) - state["centre_out"]) / state["scale_out"]
    W_enc = p.get("W_enc", p["W_dec"])
    u = x if dictionary.is_transcoder else x - p["b_dec"]
    read = u
    if isinstance(config, ISTAConfig):
        encoder = dictionary._encoder(dictionary._normalisation.apply(batch.x, "in"))
        found = dictionary._activation.first(encoder, training=True)
        first = torch.zeros(len(u), dictionary.n_latents, dtype=torch.bool)
        first[found.bags.long(), found.indices.long()] = True
        read = looked_again(config, p, u, first)
    pre = read @ W_enc.T + p["b_enc"]
    norms = p["W_dec"].norm(dim=1)

    def per_vector(error: Tensor) -> Tensor:
        return error.square().sum(1).mean() / dictionary.d_out

    def decode(f: Tensor) -> Tensor:
        return f @ p["W_dec"] + p["b_dec"]

    sparsity = aux = torch.zeros((), dtype=v.dtype)

    f = codes(dictionary, p, pre, chosen)
    if isinstance(config, ReLUConfig):
        sparsity = coefficient * (f * norms).sum(1).mean() / dictionary.d_out
        if config.tie_weights:
            sparsity = coefficient * f.sum(1).mean() / dictionary.d_out
    elif isinstance(config, JumpReLUConfig):
        threshold = p["log_threshold"].exp()
        sparsity = coefficient * _Step.apply(pre, threshold, config.bandwidth).sum(1).mean() / dictionary.d_out
    elif isinstance(config, GatedConfig):
        sparsity = coefficient * pre.relu().sum(1).mean() / dictionary.d_out
        aux = per_vector(pre.relu() @ p["W_dec"].detach() + p["b_dec"].detach() - v)
    ends, inside = [dictionary.n_latents], torch.arange(dictionary.n_latents)
    if isinstance(config, MatryoshkaConfig | ISTAConfig):
        ends = sorted({max(1, round(share * dictionary.n_latents)) for share in config.prefixes})
    if isinstance(config, ISTAConfig) and "frequency" in state:
        inside = (-state["frequency"]).argsort(stable=True).argsort()
    parts: list[Tensor] = []
    for i, end in enumerate(ends):
        given = decode(f * (inside < end))
        if isinstance(config, ISTAConfig) and 0 < i < len(ends) - 1:
            own = (f * (inside >= ends[i - 1]) * (inside < end)) @ p["W_dec"]
            given = decode(f * (inside < ends[i - 1])).detach() + own
        parts.append(per_vector(given - v))
    mse = torch.stack(parts).mean()

    if isinstance(config, RevivedBase) and dead is not None and bool(dead.any()):
        k_aux = dictionary.d_out // 2 if config.k_aux is None else config.k_aux
        z = pre.relu()[:, dead]
        if k_aux < z.shape[1]:
            smallest = z.topk(k_aux, dim=1).values[:, -1:]
            z = z * (z >= smallest)
        error = (v - decode(f)).detach()
        if k_aux:
            aux = config.aux_coefficient * per_vector(z @ p["W_dec"][dead] - error)
    (mse + sparsity + aux).backward()
    grads = {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in p.items()}
    if not isinstance(config, ReLUConfig) or config.tie_weights:
        rows = p["W_dec"].detach()
        grads["W_dec"] = grads["W_dec"] - (grads["W_dec"] * rows).sum(1, keepdim=True) * rows
    return Expected(mse.detach(), torch.as_tensor(sparsity).detach(), aux.detach(), grads, pre.detach(), f.detach())


def roundings(dictionary: SparseDictionary, batch: Batch, exact: Expected, **step: Any) -> dict[str, float]:
    """How far each gradient moves when its inputs move by a rounding: the norm of the largest of a few changes.

    A gradient of large terms that cancel can be no more exact than this however it is computed, so this, and not its
    own size, says how near two computations of it must be (backward stability; Higham 2002, Accuracy and stability of
    numerical algorithms, §1.5).
    """
    moved = [
        reference(dictionary, batch, dtype=torch.float64, nudge=torch.Generator().manual_seed(seed), **step).grads
        for seed in range(4)
    ]
    return {name: max(float((m[name] - g).norm()) for m in moved) for name, g in exact.grads.items()}
