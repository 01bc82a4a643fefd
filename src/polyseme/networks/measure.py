"""What a network is, found by running it: how long a window it takes, whether it looks ahead, what it predicts.

Names of classes and families do not decide: a decoder may be configured to look ahead (`is_causal`, `is_decoder`), and
a language model may sit inside one that also sees pictures. Every function here takes `forward`, which runs the network
on token ids `[row, position]` as a plain pass does.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polyseme.core.seeds import make_generator
from polyseme.networks.hooks import first_tensor

Forward = Callable[[Tensor], Any]

SHORT, LONG = 17, 251
"""Positions of the windows that causality is measured on, at most: primes, which no number of heads is likely to be."""
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.004}
"""Largest change of a vector, relative to the largest entry of its module's output, that is taken for rounding."""
RANDOM = 0.01
"""Above this relative difference of equal rows the network is random, and nothing is said of what it looks at."""


class _OutsideTableError(IndexError):
    """A look-up of a row that its table does not have."""


@dataclass(frozen=True)
class Lookup:
    """One look-up of rows in a table of weights.

    Attributes:
        rows: of the table.
        most: the highest row that was looked up.
        of_tokens: whether the rows are the token ids.
    """

    rows: int
    most: int
    of_tokens: bool


class _Lookups(TorchDispatchMode):
    """Records look-ups, and refuses one outside its table before it runs: on a GPU it would end the process."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self._tokens = tokens.reshape(-1)
        self.found: list[Lookup] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func is aten.embedding.default:
            self._see(args[0], args[1], 0)
        elif func is aten.index.Tensor and sum(index is not None for index in args[1]) == 1:
            axis, index = next((i, index) for i, index in enumerate(args[1]) if index is not None)
            if not index.dtype.is_floating_point and index.dtype is not torch.bool:
                self._see(args[0], index, axis)
        elif func is aten.gather.default:
            self._see(args[0], args[2], args[1])
        return func(*args, **(kwargs or {}))

    def _see(self, table: Tensor, index: Tensor, axis: int) -> None:
        if index.numel() == 0 or index.is_meta:
            return
        rows, most = table.shape[axis], int(index.max())
        of_tokens = index.numel() == len(self._tokens) and torch.equal(index.reshape(-1).to(self._tokens), self._tokens)
        self.found.append(Lookup(rows, most, of_tokens))
        if most >= rows:
            raise _OutsideTableError(f"row {most} of a table of {rows}")


@dataclass(frozen=True)
class Tables:
    """What a network's tables of weights allow.

    Attributes:
        vocabulary: token ids are below it; None where no table is looked up by token.
        context: most positions for which every table of positions has a row; None where there is no such table.
    """

    vocabulary: int | None
    context: int | None


@torch.inference_mode()
def tables(forward: Forward, draw: Callable[[int, int], Tensor], most: int | None) -> Tables:
    """The vocabulary and the context that two passes over a few tokens show.

    A table whose highest row grows with the window is one of positions, unless a longer window than it seems to have
    rows for runs all the same (a table of distances that are cut off).

    Args:
        forward: runs the network; it must run on windows of two tokens.
        draw: token ids `[row, position]` of two sizes.
        most: a context above which nothing needs to be known.
    """
    short, longer = 2, 5
    seen = [_looked_up(forward, _unordered(draw(1, length))) for length in (short, longer)]
    rows = [lookup.rows for lookup in seen[1] or seen[0] or () if lookup.of_tokens]
    context = None
    if seen[0] is not None and seen[1] is not None and len(seen[0]) == len(seen[1]):
        for before, after in zip(seen[0], seen[1], strict=True):
            grown = after.most - before.most
            if after.of_tokens or after.rows != before.rows or grown <= 0:
                continue
            limit = longer + (after.rows - 1 - after.most) * (longer - short) // grown
            known = min((x for x in (context, most) if x is not None), default=None)
            if (known is None or limit < known) and not runs(forward, draw(1, limit + 1)):
                context = limit
    return Tables(min(rows, default=None), context)


@torch.inference_mode()
def runs(forward: Forward, tokens: Int[Tensor, "row position"]) -> bool:
    """Whether the network runs on these tokens."""
    return _looked_up(forward, tokens) is not None


def _unordered(tokens: Int[Tensor, "row position"]) -> Int[Tensor, "row position"]:
    """The tokens, or the same ones backwards where they are 0, 1, 2, …: they are not to be taken for positions."""
    return tokens.flip(1) if torch.equal(tokens[0].cpu(), torch.arange(tokens.shape[1])) else tokens


def _looked_up(forward: Forward, tokens: Tensor) -> list[Lookup] | None:
    """The look-ups of a pass; None where it does not run."""
    try:
        with _Lookups(tokens) as mode:
            forward(tokens)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # noqa: BLE001 - whatever a network raises on a window that is too long
        return None
    return mode.found


def longest(forward: Forward, draw: Callable[[int, int], Tensor], wanted: int) -> int:
    """The most positions up to `wanted` that run; 0 where not even one does."""
    if runs(forward, draw(1, wanted)):
        return wanted
    low, high = 0, wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if runs(forward, draw(1, middle)) else (low, middle)
    return low


@dataclass
class _Compared:
    """Largest differences between rows of one module's output, relative to its largest entry."""

    ahead: float = 0.0
    noise: float = 0.0


@torch.inference_mode()
def looks_ahead(
    module: nn.Module, forward: Forward, draw: Callable[[int, int], Tensor], context: int | None
) -> bool | None:
    """Whether what the network computes at a position depends on later tokens; None where no pass can show it.

    Rows of one batch share their first tokens and differ in all that follow, from every position of a short window and
    from a few of a longer one. Outputs of every module at positions before the difference are compared with those of
    the row they share these tokens with; rows that are equal throughout show what rounding does.

    Args:
        module: the network.
        forward: runs it.
        draw: token ids `[row, position]` of two sizes.
        context: most positions a window may have.
    """
    compared = 0
    for length, cuts in _windows(context):
        for _ in range(2 if length <= SHORT else 1):
            base, other = draw(1, length), draw(len(cuts), length)
            alike = torch.arange(length)[None, :] < torch.tensor(cuts, dtype=torch.int64)[:, None]
            changed = torch.where(alike.to(base.device), base, other)
            half = len(cuts) // 2
            tokens = torch.cat([base, base, changed[:half], base, changed[half:], base])
            middle = 2 + half
            equal = [1, middle, len(tokens) - 1]
            rows = [row for row in range(1, len(tokens)) if row not in equal]
            found = _compare(module, forward, tokens, equal, rows, cuts)
            if found is None:
                return None
            compared += len(found)
            for kind, seen in found:
                if seen.noise > RANDOM and seen.noise > ROUNDING.get(kind, 0.0):
                    return None
                if seen.ahead > max(10 * seen.noise, ROUNDING.get(kind, 1e-5)):
                    return True
    return False if compared else None


def _windows(context: int | None) -> list[tuple[int, list[int]]]:
    """Lengths of windows, each with the positions from which rows differ."""
    most = LONG if context is None else context
    short, long = min(SHORT, most), min(LONG, most)
    windows = [(short, list(range(1, short)))] if short > 1 else []
    if long > short:
        windows.append((long, [short + 1, (short + long) // 2, long - 1]))
    return windows


def _compare(
    module: nn.Module, forward: Forward, tokens: Tensor, equal: Sequence[int], rows: Sequence[int], cuts: Sequence[int]
) -> list[tuple[torch.dtype, _Compared]] | None:
    """For every output `[row, position, width]` of every module: its precision and how its rows differ.

    None for a network that does not run on these rows.
    """
    n_rows, length = tokens.shape
    found: list[tuple[torch.dtype, _Compared]] = []

    def compare(value: Tensor) -> None:
        if value.dim() != 3 or not value.is_floating_point():
            return
        if value.shape[:2] == (length, n_rows):
            value = value.transpose(0, 1)
        if value.shape[:2] != (n_rows, length):
            return
        least, most = value.aminmax()
        scale = max(-float(least), float(most))
        if not 0 < scale < float("inf"):
            return
        # One row at a time: logits of a large vocabulary are hundreds of megabytes.
        noise = max(_largest(value[row], value[0]) for row in equal)
        ahead = max(_largest(value[row, :cut], value[0, :cut]) for row, cut in zip(rows, cuts, strict=True))
        found.append((value.dtype, _Compared(ahead / scale, noise / scale)))

    def see(_: nn.Module, _args: Any, output: Any) -> None:
        for value in _tensors(output):
            compare(value)

    with ExitStack() as stack:
        for part in module.modules():
            stack.callback(part.register_forward_hook(see).remove)
        try:
            forward(tokens)
        except Exception:  # noqa: BLE001 - whatever a network raises that takes one row only
            return None
    return found


def _largest(row: Tensor, base: Tensor) -> float:
    """The largest difference between two rows, in float32 at least."""
    wide = torch.float64 if row.dtype is torch.float64 else torch.float32
    return float((row.to(wide) - base.to(wide)).abs_().max())


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, one level deep."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [value for value in cast(Mapping[str, Any], output).values() if isinstance(value, Tensor)]
    if isinstance(output, (tuple, list)):
        return [value for value in cast(Sequence[Any], output) if isinstance(value, Tensor)]
    return []


@torch.inference_mode()
def predicts(module: nn.Module, forward: Forward, tokens: Int[Tensor, "row position"], vocabulary: int | None) -> bool:
    """Whether the network gives logits `[row, position, vocabulary]` over the tokens it reads.

    A Hugging Face model must have output embeddings too: a classifier of tokens also gives logits at every position.
    """
    output = forward(tokens)
    logits = getattr(output, "logits", None)
    if hasattr(module, "base_model_prefix"):
        find = getattr(module, "get_output_embeddings", None)
        if not isinstance(logits, Tensor) or not callable(find) or find() is None:
            return False
        enough = vocabulary is None or logits.shape[-1] >= vocabulary
    else:
        if not isinstance(logits, Tensor):
            logits = first_tensor(output, "network")
        enough = vocabulary is None or logits.shape[-1] == vocabulary
    return bool(logits.dim() == 3 and logits.shape[:2] == tokens.shape and enough and logits.is_floating_point())


def drawing(vocabulary: int, avoid: frozenset[int], device: torch.device) -> Callable[[int, int], Tensor]:
    """A function that draws token ids `[row, position]`, the same ones every time a network is measured.

    Args:
        vocabulary: ids are below it.
        avoid: ids that mean something to the network beside their text (padding, pictures); left out where others are.
        device: where they are put.
    """
    generator = make_generator(0, "measure")
    ids = [i for i in range(min(vocabulary, 4096)) if i not in avoid] or list(range(vocabulary))
    known = torch.tensor(ids, dtype=torch.int64)

    def draw(rows: int, positions: int) -> Tensor:
        return known[torch.randint(len(known), (rows, positions), generator=generator)].to(device)

    return draw
