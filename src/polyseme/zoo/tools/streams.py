"""Torch's CPU generators, many at a time: the same numbers to the last bit, by compiled loops (`mersenne.c`).

`torch.rand` takes a word after the other on one thread, which was most of a toy's training step. The numbers stay
those of `torch.Generator`, which every figure of the zoo was drawn with: a stream is a pure function of its seed,
whatever it is drawn together with.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.kernels.loops import Loop, check_places

_WORDS = 624
_LEFT, _NEXT, _STATE = 8, 16, 24
"""Bytes of `Generator.get_state` at which it says how many words are left (with one too many), which is next (int32,
int64), and where the state begins: 624 words, each in eight bytes."""


_UNIFORM = Loop(
    "polyseme_uniform",
    "streams",
    "states:i32[streams,624] positions:i64[streams] p:f32[streams]? count:i64 out:f32[streams,count]",
)


@functools.cache
def agrees() -> bool:
    """Whether the loop draws what torch draws: tried out across a renewal of the state, and after a `get_state`."""
    one, other = (torch.Generator(device="cpu").manual_seed(5) for _ in range(2))
    torch.rand(3, generator=one, dtype=torch.float32, device="cpu")
    torch.rand(3, generator=other, dtype=torch.float32, device="cpu")
    streams = Streams([one])
    drawn = streams.uniform(torch.empty(1, 2 * _WORDS, dtype=torch.float32, device="cpu"))
    streams.release()
    wanted = torch.rand(2 * _WORDS, generator=other, dtype=torch.float32, device="cpu")
    return torch.equal(drawn[0], wanted) and torch.equal(one.get_state(), other.get_state())


class Streams:
    """The states of generators, taken from them and handed back on demand.

    Args:
        generators: of the CPU; not to be used until `release`.
    """

    def __init__(self, generators: Sequence[torch.Generator]):
        self._generators = generators
        self._states = torch.empty(len(generators), _WORDS, dtype=torch.int32, device="cpu")
        self._positions = torch.empty(len(generators), dtype=torch.int64, device="cpu")
        self._owned = False

    def uniform(
        self, out: Float[Tensor, "stream ..."], p: Float[Tensor, " stream"] | None = None
    ) -> Float[Tensor, "stream ..."]:
        """Fill `out` with U[0, 1) from each stream; with `p`, u / p where u < p and 0 elsewhere."""
        if not self._owned:
            self._acquire()
        p = None if p is None else p.to(torch.float32).contiguous()
        whole = out.view(len(out), -1)
        state = {"states": self._states, "positions": self._positions}
        check_places("uniform", self._positions, _WORDS + 1)
        _UNIFORM(len(out), **state, p=p, count=whole.shape[1], out=whole)
        return out

    def _acquire(self) -> None:
        for i, generator in enumerate(self._generators):
            raw = generator.get_state()
            left = int(raw[_LEFT : _LEFT + 4].view(torch.int32))
            self._positions[i] = _WORDS + 1 - left
            self._states[i] = raw[_STATE : _STATE + 8 * _WORDS].view(torch.int32)[::2]
        self._owned = True

    def release(self) -> None:
        """Let the generators go on from here."""
        if not self._owned:
            return
        for generator, state, position in zip(self._generators, self._states, self._positions.tolist(), strict=True):
            raw = generator.get_state()
            raw[_LEFT : _LEFT + 4].view(torch.int32).fill_(_WORDS + 1 - position)
            raw[_NEXT : _NEXT + 8].view(torch.int64).fill_(position)
            raw[_STATE : _STATE + 8 * _WORDS].view(torch.int32)[::2] = state
            generator.set_state(raw)
        self._owned = False
