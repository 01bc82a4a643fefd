"""Which axes of a module's tensor are positions and which is the width.

Sites are read and edited as vectors, `[batch, position, width]`. Most modules of language models give just that. A
convolution gives `[batch, channel, height, width]`: its vectors are the channels at each place. Some networks keep
positions before the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CHANNELS_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.Upsample),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)


@dataclass(frozen=True)
class Layout:
    """How a tensor becomes vectors.

    Attributes:
        axes: the tensor's axes in the order batch, positions, width.
    """

    axes: tuple[int, ...]

    def vectors(self, value: Tensor) -> Tensor:
        """`[batch, position, width]`, all axes of positions as one; a view where that can be."""
        return value.permute(self.axes).flatten(1, -2)

    def whole(self, vectors: Tensor, like: Tensor) -> Tensor:
        """The tensor, laid out as `like`, whose vectors these are."""
        inverse = [self.axes.index(axis) for axis in range(len(self.axes))]
        whole = vectors.reshape(like.permute(self.axes).shape).permute(inverse)
        # In the memory order of `like`: later sums take their terms in the same order, and round alike.
        return torch.empty_like(like).copy_(whole)


def channels_first(n_axes: int) -> Layout:
    """The layout of `[batch, channel, …]`."""
    return Layout((0, *range(2, n_axes), 1))


def channels_last(n_axes: int) -> Layout:
    """The layout of `[batch, …, channel]`."""
    return Layout(tuple(range(n_axes)))


POSITIONS_FIRST = Layout((1, 0, 2))


def own_layout(module: nn.Module, n_axes: int) -> Layout | None:
    """The layout that the kind of a module decides, of what it reads and returns; None where it does not."""
    if n_axes < 3:
        return None
    if isinstance(module, _CHANNELS_FIRST):
        return channels_first(n_axes)
    # A subclass may take its channels first (ConvNeXt's norms do).
    return channels_last(n_axes) if type(module) in _CHANNELS_LAST else None


class Neighbours:
    """What modules whose kind decides their layout return in a pass, from which the layout of others is inferred.

    A block of a convolutional network ends in a sum or a non-linearity: its tensor has the shape, and the layout, of
    what a convolution in it returned.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], set[Layout]] = {}

    def see(self, module: nn.Module, _args: Any, output: Any) -> None:
        """Take in what a module returned: a forward hook."""
        if not isinstance(output, Tensor):
            return
        layout = own_layout(module, output.dim())
        if layout is not None:
            self._seen.setdefault(tuple(output.shape), set()).add(layout)

    def layout(self, module: nn.Module, value: Tensor, tokens: Sequence[int] | None) -> Layout | None:
        """The layout of a tensor that a module read or returned; None for one whose last axis is its width as it is.

        A tensor of more than three axes with no layout is one that nothing is known of.

        Args:
            module: whose tensor it is.
            value: the tensor.
            tokens: `(batch, position)` of the token ids the network runs on, where it does.
        """
        n_axes, shape = value.dim(), tuple(value.shape)
        if n_axes < 3:
            return None
        if n_axes == 3 and tokens is not None:
            if shape[:2] == tuple(tokens):
                return None
            if shape[:2] == (tokens[1], tokens[0]):
                return POSITIONS_FIRST
        found = own_layout(module, n_axes)
        if found is None:
            alike = self._seen.get(shape, set())
            found = next(iter(alike)) if len(alike) == 1 else None
        return None if n_axes == 3 and found == channels_last(3) else found
