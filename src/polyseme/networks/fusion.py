"""Linear maps through oneDNN, the non-linearity after one in the product's epilogue; attention by a compiled loop.

Opt-in (`linear = "fused"`): values agree with the plain network's to about 1e-6 and not bit for bit, so the network's
fingerprint changes with it. On an AMD processor oneDNN's fp32 product is twice as fast as the one torch uses; anywhere,
the epilogue saves a pass over the widest tensor of a block, and for GPT-2's own GELU the eight that its formula takes.

Nothing but the `forward` of single modules is replaced: modules, names, shapes, values and hooks stay (a weight kept
`[in, out]` is copied into the other order in memory: without the copy, the product took up to a fifth longer). Where
somebody looks or writes between a linear map and its non-linearity (a site there, a hook), where gradients are wanted,
and where oneDNN does not take the tensors (another device, another dtype), modules compute as they did before.
"""

import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.kernels.attention import Attending, available
from polyseme.kernels.onednn import operation

_LINEAR = {"torch.nn.modules.linear.Linear": False, "transformers.pytorch_utils.Conv1D": True}
"""Modules that map linearly, by exact class; whether their weight is `[in, out]`. Subclasses (quantised, adapted) are
left alone."""

_EPILOGUES = {
    "torch.nn.modules.activation.ReLU": ("relu", ""),
    "torch.nn.modules.activation.SiLU": ("swish", ""),
    "transformers.activations.SiLUActivation": ("swish", ""),
    "transformers.activations.GELUActivation": ("gelu", "none"),
    "transformers.activations.GELUTanh": ("gelu", "tanh"),
    "transformers.activations.NewGELUActivation": ("gelu", "tanh"),
    "transformers.activations.FastGELUActivation": ("gelu", "tanh"),
}
"""Non-linearities by exact class, as oneDNN's attribute and algorithm."""

_APPLIED = "_polyseme_applied"
"""Set on a tensor to the non-linearity that is in it already."""


def fuse(module: nn.Module, pairs: Iterable[tuple[str, str]], attention: Iterable[str] = ()) -> int:
    """Let oneDNN compute every linear map in `module`, and `kernels.attention` what it can of attention, in place.

    Args:
        module: the network.
        pairs: paths of a linear map and of the non-linearity that alone reads what it returns, and reads it as it is.
        attention: paths of modules that call torch's attention.

    Returns:
        How many linear maps go through oneDNN now. Where this torch or processor has no such operation, 0, and nothing
        is changed.
    """
    if operation(torch.float32) is None:
        return 0
    parts = dict(module.named_modules())
    after = {a: parts[b] for a, b in pairs if a in parts and b in parts and _name(parts[b]) in _EPILOGUES}
    users = Counter(id(tensor) for part in parts.values() for tensor in part.parameters(recurse=False))
    n = 0
    for path, part in parts.items():
        if _name(part) not in _LINEAR or "forward" in vars(part):
            continue
        activation = after.get(path)
        if activation is not None and "forward" in vars(activation):
            activation = None
        if _LINEAR[_name(part)] and users[id(part.weight)] == 1:
            part.weight = _relaid(part.weight)
        part.forward = _Linear(part, activation)
        if activation is not None:
            activation.forward = _Activation(activation)
        n += 1
    for path in attention if available() else ():
        if path in parts and "forward" not in vars(parts[path]):
            parts[path].forward = _Attention(parts[path])
    return n


def fused_parts(module: nn.Module) -> list[str]:
    """What in `module` is computed otherwise than the module says: of `linear` and `attention`."""
    forwards = [vars(part).get("forward") for part in module.modules()]
    kinds = {"linear": _Linear, "attention": _Attention}
    return [name for name, kind in kinds.items() if any(isinstance(forward, kind) for forward in forwards)]


@final
class _Linear:
    """A linear module's forward, with the non-linearity that follows where nobody looks between the two."""

    def __init__(self, module: nn.Module, activation: nn.Module | None):
        self._module, self._activation = module, activation
        self._transposed = _LINEAR[_name(module)]

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        module: Any = self._module
        weight, bias = module.weight, module.bias
        linear = operation(x.dtype) if _takes(x, weight) else None
        if linear is None:
            return type(module).forward(module, x)
        weight = weight.t() if self._transposed else weight
        if self._activation is None or _watched(module, self._activation):
            return linear(x, weight, bias, "none", "")
        attribute, algorithm = _EPILOGUES[_name(self._activation)]
        y = linear(x, weight, bias, attribute, algorithm)
        setattr(y, _APPLIED, self._activation)
        return y


@final
class _Activation:
    """A non-linearity's forward: nothing is left to do for a tensor that has it already."""

    def __init__(self, module: nn.Module):
        self._module = module

    def __call__(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        if getattr(x, _APPLIED, None) is self._module:
            delattr(x, _APPLIED)
            return x
        module: Any = self._module
        return type(module).forward(module, x)


@final
class _Attention:
    """A forward in which torch's attention goes by `attend`."""

    def __init__(self, module: nn.Module):
        self._module = module
        self.__signature__ = inspect.signature(module.forward)  # hooks ask for it to know what they were given

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self._module
        with Attending():
            return type(module).forward(module, *args, **kwargs)


def _relaid(weight: Any) -> nn.Parameter:
    """An `[in, out]` weight with what belongs to one output side by side in memory."""
    return nn.Parameter(weight.detach().t().contiguous().t(), requires_grad=weight.requires_grad)


def _watched(linear: nn.Module, activation: nn.Module) -> bool:
    return bool(vars(linear)["_forward_hooks"] or vars(activation)["_forward_pre_hooks"])


def _takes(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or weight.device.type != "cpu" or x.dtype != weight.dtype or x.numel() == 0:
        return False
    wants_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return not wants_gradient and not torch.is_autocast_enabled("cpu")


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
