"""Softmax attention on a CPU by a compiled loop (`attention.c`), in the place of torch's.

Of a fused pass torch's attention takes a fifth to a third: it multiplies many small matrices by a general routine. Here
a head's keys and values are packed once, tiles of products stay in registers, and what a causal mask hides is not
multiplied. Sums are in float32, for bfloat16 networks too. What comes out for a query depends neither on what else is
in the batch nor on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from polyseme.kernels import library as native
from polyseme.kernels.loops import Loop

UNITS_A_THREAD = 4
"""Units of work there are for each thread, at least: where there are few heads the queries of each are split (and its
keys and values packed once for each part)."""

_DTYPES = (torch.float32, torch.bfloat16)


_ATTENTION = Loop(
    "polyseme_attention",
    "batch*heads*parts",
    "q:f32|bf16[batch,heads,queries,d]~ k:f32|bf16[batch,kv_heads,keys,d]~ v:f32|bf16[batch,kv_heads,keys,d]~ "
    "out:f32|bf16[batch,queries,heads,d] strides:i64[9] heads:i64 group:i64 queries:i64 keys:i64 d:i64 parts:i64 "
    "causal:i64 bf16:i64 scale:f32 failed:i32[1]",
)


def available() -> bool:
    """Whether the loop was built for this processor's vectors; without them torch's own is faster."""
    return torch.backends.cpu.get_cpu_capability() in native.LEVELS and native.usable()


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """`torch.nn.functional.scaled_dot_product_attention`, or None for what the loop does not do.

    It does `[batch, head, query, d]` beside `[batch, kv_head, key, d]` twice, in float32 or bfloat16 on a CPU, without
    a mask or with the causal one of equally many queries and keys; no dropout, no gradients, no autocast.

    Raises:
        MemoryError: no room for one head's keys and values.
    """
    tensors = (query, key, value)
    if attn_mask is not None or dropout_p or not available() or not all(map(_takes, tensors)):
        return None
    batch, heads, queries, d = query.shape
    kv_heads, keys = key.shape[1:3]
    if key.shape != (batch, kv_heads, keys, d) or value.shape != key.shape:
        return None
    if not query.dtype == key.dtype == value.dtype or (is_causal and queries != keys):
        return None
    if heads != kv_heads and not (enable_gqa and heads % kv_heads == 0):
        return None
    parts = min(queries, max(1, -(-UNITS_A_THREAD * torch.get_num_threads() // (batch * heads))))
    out = query.new_empty(batch, queries, heads, d)
    strides = [stride for x in tensors for stride in x.stride()[:3]]
    failed = torch.zeros(1, dtype=torch.int32, device="cpu")
    _ATTENTION(
        batch * heads * parts,
        q=query,
        k=key,
        v=value,
        out=out,
        strides=torch.tensor(strides, dtype=torch.int64, device="cpu"),
        heads=heads,
        group=heads // kv_heads,
        queries=queries,
        keys=keys,
        d=d,
        parts=parts,
        causal=int(is_causal),
        bf16=int(query.dtype == torch.bfloat16),
        scale=d**-0.5 if scale is None else scale,
        failed=failed,
    )
    if failed.item():
        raise MemoryError(f"no room for a head's {keys} keys and values of {d} numbers")
    return out.transpose(1, 2)


def _takes(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return False
    return x.ndim == 4 and x.numel() > 0 and x.stride(-1) == 1 and not (torch.is_grad_enabled() and x.requires_grad)


class Attending(TorchFunctionMode):
    """While it is entered, calls of torch's attention go by `attend` where it does them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            out = attend(*args, **kwargs)
            if out is not None:
                return out
        return func(*args, **kwargs)
