"""Passes that start at a block: what the blocks below it returned once stands in for them.

Passes over the same inputs that differ in edits at block i and above agree in blocks 0 to i − 1. A `Prefix` keeps what
those blocks' forwards returned in a pass without edits, and while it is in use each of them returns that at once. The
model's own code runs around them as ever, so masks, position and rotary embeddings, and which layers attend locally
are what they are in a whole pass, and so are the logits, bit for bit.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks.hooks import first_tensor, with_first_tensor
from polyseme.networks.loaded import Loaded


@dataclass(frozen=True)
class Prefix:
    """What leading blocks of a network returned in a pass without edits; made by `Network.prefix`.

    Attributes:
        module: the network.
        outputs: number n of leading blocks to what the last of them, block n − 1, returned; empty where every pass has
            to be a whole one.
    """

    module: nn.Module
    outputs: Mapping[int, Any]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Prefix":
        """The prefix of other inputs whose vectors are known from these: windows repeated, tokens copied.

        Args:
            change: from the residual stream `[batch, position, d]` of these inputs to that of the others.
        """
        outputs = {n: with_first_tensor(o, change(first_tensor(o, "block"))) for n, o in self.outputs.items()}
        return Prefix(self.module, outputs)


@final
class Trunk:
    """The blocks of a network, one after the other.

    Args:
        module: the network.
        blocks: path of the list of its blocks; None where it is unknown how they follow each other.
        readout: paths of modules that run after the last block only.
    """

    def __init__(self, module: nn.Module, blocks: str | None, readout: Sequence[str]):
        self._module = module
        self._path = f"{blocks}."
        self._readout = tuple(readout)
        self._blocks = [] if blocks is None else list(module.get_submodule(blocks).children())

    def below(self, sites: Iterable[Site]) -> int:
        """How many leading blocks run the same whatever is edited at the sites, and need not run to read them."""
        return min((self._below(site) for site in sites), default=len(self._blocks))

    def _below(self, site: Site) -> int:
        if any(f"{site.path}.".startswith(f"{path}.") for path in self._readout):
            return len(self._blocks)
        if not self._blocks or not site.path.startswith(self._path):
            return 0
        number, _, inside = site.path.removeprefix(self._path).partition(".")
        # What a block returns is edited and read when it has returned, from wherever it took it.
        return int(number) + (not inside and site.port == "out")

    @contextmanager
    def recorded(self, numbers: Iterable[int]) -> Generator[dict[int, Any]]:
        """In a pass in this context, what the last of each number of leading blocks returns is put into the value."""
        outputs: dict[int, Any] = {}

        def recording(n: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                output = own(*args, **kwargs)
                outputs[n] = _copy(output)
                return output

            return forward

        with _forwards({self._blocks[n - 1]: recording(n, self._blocks[n - 1].forward) for n in numbers}):
            yield outputs

    @contextmanager
    def skipped(self, prefix: Prefix | None, sites: Iterable[Site]) -> Generator[None]:
        """A pass in this context starts above the most blocks of the prefix that editing and reading the sites allows.

        Raises:
            InputError: the prefix is another network's or, in the pass, of inputs of another shape.
        """
        if prefix is not None and prefix.module is not self._module:
            raise InputError("The prefix is of another network", fix="make it with this network's own `prefix`")
        most = self.below(sites)
        known = {} if prefix is None else {n: output for n, output in prefix.outputs.items() if n <= most}
        start = max(known, default=0)

        def skip(*args: Any, **kwargs: Any) -> Any:
            given, kept = (first_tensor(x, "block").shape for x in (args or kwargs, known[start]))
            if given != kept:
                raise InputError(
                    f"The prefix has vectors of shape {tuple(kept)}, and these inputs give {tuple(given)}",
                    fix="make the prefix from the same inputs",
                )
            return _copy(known[start])

        with _forwards(dict.fromkeys(self._blocks[:start], skip)):
            yield


def _copy(output: Any) -> Any:
    """The output with a tensor of its own, which in-place steps of the network and of edits do not share."""
    return with_first_tensor(output, first_tensor(output, "block").clone())


@contextmanager
def _forwards(replaced: Mapping[nn.Module, Callable[..., Any]]) -> Generator[None]:
    """Modules run these in the place of their forwards; hooks on them stay, before and after."""
    with ExitStack() as stack:
        for module, forward in replaced.items():
            own = vars(module).get("forward")  # a wrapper that somebody put there
            stack.callback(_restore, module, own)
            module.forward = forward
        yield


def _restore(module: nn.Module, own: Callable[..., Any] | None) -> None:
    del module.forward
    if own is not None:
        module.forward = own


def trunk_of(loaded: Loaded) -> Trunk:
    """The blocks of a network; none where it is not known how they follow each other."""
    family, base = loaded.family, loaded.base
    if family is None or loaded.run is not None:
        return Trunk(loaded.module, None, ())
    return Trunk(loaded.module, f"{base}{family.blocks}", [path.format(base=base) for path in family.readout])
