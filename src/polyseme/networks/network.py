"""A loaded network: its sites, one-pass reads that stop early, and edits."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from polyseme.core.config import fingerprint
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.networks.calls import Calls
from polyseme.networks.edits import Edit, EditFrom
from polyseme.networks.facts import Facts
from polyseme.networks.hooks import Pass, logits_of, needed, needs_of, rows_at
from polyseme.networks.inputs import Inputs
from polyseme.networks.loaded import Loaded
from polyseme.networks.passes import exclusive, one_pass
from polyseme.networks.places import Places
from polyseme.networks.prefix import Prefix, trunk_of
from polyseme.networks.readout import ReadOut
from polyseme.networks.sites import SiteTable
from polyseme.networks.survey import Seen, place_of
from polyseme.networks.texts import Ids, Output, Reads, Text, Texts, Tokens, reads_of
from polyseme.networks.weights import weights_fingerprint


@final
class Network:
    """A network whose named places can be read and written; made by `load_network`.

    Every pass runs in eval mode and in `torch.inference_mode`, one thread's at a time; the module is left as it was.
    Reads come back as ordinary tensors; copy logits before working on them in place.

    Attributes:
        module: the network itself.
        tokenizer: of a text model, where its folder has one.
        family: name of its family of `networks.families`; `unknown` where only module paths name sites.
        ladder: networks trained like it, of several sizes, where its folder has a `ladder.json`.
        facts: what passes show of it, and what follows from that.
        origin: what made it from another network, which has the fingerprint `weights`; empty for one that was loaded.
    """

    def __init__(self, loaded: Loaded):
        self.module = loaded.module
        self.tokenizer = loaded.tokenizer
        self.family = loaded.family.name if loaded.family else "unknown"
        self.ladder = loaded.ladder
        self.origin: Mapping[str, Any] = {}
        self._loaded = loaded
        self.facts = Facts(loaded)
        self._calls = Calls(loaded, self.facts)
        self._texts = Texts(loaded.tokenizer, loaded.where)
        self._table = SiteTable(loaded)
        self._trunk = trunk_of(loaded)
        self._readout = ReadOut(loaded)
        self._places = Places(loaded, self.facts, self._calls, self._readout, self._table)
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"Network({self._loaded.where}, family={self.family!r}, {self.n_blocks} blocks)"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._loaded.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self._loaded.dtype

    @property
    def n_blocks(self) -> int:
        """How many blocks `blocks.N` counts; 0 for an unknown family."""
        return self._table.n_blocks

    @property
    def n_parameters(self) -> int:
        """Parameters, shared ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

    @cached_property
    def row_bytes(self) -> int:
        """Bytes a position takes in the widest tensor of its blocks: by the longest side of their weight matrices."""
        head = self._readout.head
        outside = {id(part.weight) for part in self.module.modules() if isinstance(part, nn.Embedding)}
        outside |= set() if head is None else {id(head.weight)}
        sides = [max(p.shape) for p in self.module.parameters() if p.dim() == 2 and id(p) not in outside]
        return max(sides, default=1) * self.dtype.itemsize

    @property
    def fingerprint(self) -> str:
        """SHA-256 over class, config, weights, re-initialisation and fusion; 64 hex digits, computed once."""
        return self.hash_weights(Silent())

    def hash_weights(self, reporter: Reporter) -> str:
        """`fingerprint`, with its progress where it is computed first: large weights take a while."""
        if self._fingerprint is None:
            made = self.origin
            self._fingerprint = fingerprint(made) if made else weights_fingerprint(self.module, reporter)
        return self._fingerprint

    def changed(self, change: Callable[[nn.Module, Collection[str]], None], made: Mapping[str, Any]) -> "Network":
        """The network on a copy of its module, with other weights; its fingerprint says what they were made from.

        Args:
            change: takes the copied module and the names of the parameters that embed its input.
            made: what `change` does, as JSON; with the fingerprint of this network it names the other.
        """
        with exclusive(self.module):  # no hooks of a pass are copied with it
            module = copy.deepcopy(self.module)
        family, base = self._loaded.family, self._loaded.base
        change(module, [f"{base}{name}" for name in (family.embeddings if family else ())])
        module.requires_grad_(False)
        network = Network(replace(self._loaded, module=module, ladder=()))
        network.origin = {"weights": self.fingerprint, **made}
        return network

    # What it is, each fact measured once, on first use (`networks.facts`)

    @property
    def reads_tokens(self) -> bool:
        """Whether its main input is token ids, and a pass needs nothing else."""
        return self.facts.reads_tokens

    @property
    def causal(self) -> bool:
        """Whether position t sees only positions up to t; False for a network that reads no tokens."""
        return self.facts.causal

    @property
    def predicts_tokens(self) -> bool:
        """Whether it predicts the next token: it is causal, and gives logits over the tokens it reads at each."""
        return self.facts.predicts_tokens

    @property
    def no_prediction(self) -> str | None:
        """Why it predicts no next token; None where it does."""
        return self.facts.no_prediction

    @property
    def vocabulary(self) -> int | None:
        """Token ids are below this; None where that is not known."""
        return self.facts.vocabulary

    @property
    def context(self) -> int | None:
        """Most positions a window may have; None where there is no limit (`Facts.context`)."""
        return self.facts.context

    # Sites

    def site(self, name: str | Site) -> Site:
        """The site of a short name, a TransformerLens hook name or a module path (`transformer.h.2.mlp.in`).

        Raises:
            InputError: there is no such place; names the nearest ones.
        """
        return self._table.resolve(name)

    def site_names(self, *, modules: bool = False) -> list[str]:
        """Every short name and hook name; with `modules`, the module paths too."""
        return self._table.names(modules=modules)

    def width(self, site: str | Site) -> int:
        """Length of the site's vectors.

        Raises:
            InputError: it takes a pass to know it, and the network came without `example_inputs`.
        """
        return self.widths([site])[self.site(site)]

    @one_pass
    def widths(self, sites: Sequence[str | Site]) -> dict[Site, int]:
        """Length of each site's vectors, all from one pass at most.

        Raises:
            InputError: as `width`, or a site that holds no vectors.
        """
        return self._places.widths(list(map(self.site, sites)))

    @one_pass
    def module_widths(self) -> dict[str, int]:
        """Path and width of every module that gives vectors, one for each token where the network reads tokens.

        Modules that are called several times, and those that give what the network returns, are left out.

        Raises:
            InputError: inputs that run are not known, and the network came without `example_inputs`.
        """
        return self._places.module_widths()

    @one_pass
    def survey(
        self, sites: Sequence[str | Site], tokens: Int[Tensor, "batch position"] | None = None
    ) -> dict[Site, Seen]:
        """What one pass shows at each site, without keeping its values: shape, calls, whether it is finite.

        Args:
            sites: by name or `Site`.
            tokens: what the pass is over; by default a few random tokens, or the network's example inputs.

        Raises:
            InputError: an unknown site; inputs that run are not known, and the network came without `example_inputs`.
        """
        return self._places.survey(list(map(self.site, sites)), tokens)

    @one_pass
    def check_order(self, reads: Sequence[str | Site], writes: Sequence[str | Site]) -> None:
        """Refuse reads that a forward pass comes to later than to a write that depends on them.

        Raises:
            InputError: names the two sites; or it takes a pass to know, and the network came without `example_inputs`.
        """
        self._places.check_order(self._pairs(reads, writes))

    @one_pass
    def in_order(self, reads: Sequence[str | Site], writes: Sequence[str | Site]) -> bool:
        """Whether a forward pass comes to none of `reads` later than to any of `writes`.

        Raises:
            InputError: it takes a pass to know, and the network came without `example_inputs`.
        """
        return not self._places.late(self._pairs(reads, writes))

    def _pairs(self, reads: Sequence[str | Site], writes: Sequence[str | Site]) -> list[tuple[Site, Site]]:
        return [(self.site(read), self.site(write)) for read in reads for write in writes]

    # Passes

    def tokens(self, text: Text | Ids) -> Tokens:
        """The tokens of a text, of several, or of their ids; see `Texts.tokens` for what stands around them."""
        return self._texts.tokens(text)

    @one_pass
    def read(
        self,
        inputs: Inputs | Text | Ids | Tokens,
        sites: str | Site | Sequence[str | Site],
        *,
        edits: Mapping[Site, Edit] | Mapping[str, Edit] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch position"] | None = None,
    ) -> Reads:
        """Every site's vectors in one forward pass that stops right after the deepest of them.

        >>> reads = polyseme.load_network("pylm").read("def add(a, b):", ["blocks.2.resid_post"])
        >>> reads["blocks.2.resid_post"].shape, reads.tokens.texts[0][:3]
        (torch.Size([1, 8, 224]), ('<|bos|>', 'def', ' add'))

        Args:
            inputs: a text, several, or token ids `[batch, position]`; a float tensor, or keyword inputs.
            sites: what to read, by name or `Site`.
            edits: as in `run`; those below the deepest read do not happen.
            attention_mask: as in `run`.
            position_ids: as in `run`.

        Returns:
            Under each name its vectors, usually `[batch, position, d]`, before their own edits; NaN where a text
            shorter than the others was padded.

        Raises:
            InputError: an unknown site, bad inputs, a module not reached or called more than once.
        """
        sites = [sites] if isinstance(sites, str | Site) else sites
        reads = [self.site(site) for site in sites]
        resolved, given = self._resolved(edits), self._given(inputs)
        forward = self._calls.of(given, attention_mask, position_ids)
        passing = self._pass(reads, resolved, forward)
        # Whether a module is called again shows only in a pass that runs to its end.
        places = [place_of(site) for site in (*reads, *resolved, *needed(resolved))]
        once = all(at.calls == 1 for at in self._places.know(places, forward).values())
        with torch.inference_mode():
            passing.run(forward, stop=once or self._loaded.repeated == "first")
        return reads_of(sites, passing.values, self.site, given, self._texts)

    @one_pass
    def run(
        self,
        inputs: Inputs | Text | Ids | Tokens,
        *,
        edits: Mapping[Site, Edit] | Mapping[str, Edit] | None = None,
        reads: Sequence[str | Site] = (),
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch position"] | None = None,
        logits_at: Bool[Tensor, "batch position"] | None = None,
        prefix: Prefix | None = None,
    ) -> Output:
        """One forward pass to the logits, with edits at any set of sites.

        A site is read before it is edited. An edit that returns its argument leaves the logits the same bit for bit.

        Args:
            inputs: as in `read`.
            edits: site to the function whose value takes the place of its vectors (`networks.edits` makes some).
            reads: sites to return.
            attention_mask: `[batch, position]`, 1 for positions to attend to; or, where `supports_4d_mask`, an additive
                `[batch, 1, query, key]`, which then stands for causality too.
            position_ids: of each token, where they are not 0, 1, 2, …
            logits_at: positions whose logits are wanted; the unembedding is computed for these alone where the network
                has a head of its own.
            prefix: of the same inputs, mask and positions (`Network.prefix`): blocks below every edit and read are
                taken from it instead of being run, and the output is the same bit for bit.

        Raises:
            InputError: an unknown site, bad inputs, an edit that changes the shape or needs a site that comes later, a
                module called more than once, a prefix of another network or of inputs of another shape.
        """
        resolved, given = self._resolved(edits), self._given(inputs)
        asked = [self.site(site) for site in reads]
        forward = self._calls.of(given, attention_mask, position_ids)
        passing = self._pass(asked, resolved, forward)
        sites = [*asked, *resolved, *needed(resolved)]
        chosen = None if logits_at is None else logits_at.to(self.device)
        head = self._readout.head if chosen is not None and not self._readout.sees_any(sites) else None
        with torch.inference_mode(), self._trunk.skipped(prefix, sites), ExitStack() as stack:
            if head is not None and chosen is not None:
                stack.callback(head.register_forward_pre_hook(rows_at(chosen)).remove)
            logits = logits_of(passing.run(forward, stop=False))
            if head is None and chosen is not None:
                logits = logits[chosen]
        return Output(logits, reads_of(reads, passing.values, self.site, given, self._texts))

    @one_pass
    def prefix(
        self,
        inputs: Inputs,
        sites: Sequence[str | Site],
        *,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch position"] | None = None,
    ) -> Prefix:
        """What the blocks below the sites give, for runs that edit or read these sites: one pass up to the deepest.

        Worth its pass from the second run on. Empty, at no cost, where a run cannot start inside the network: for
        an unknown family, a network with a run callable, and sites before the first block ends.

        Args:
            inputs: as in `run`.
            sites: where the runs will edit or read (what edits need is read), each run at one or more of them.
            attention_mask: as in `run`.
            position_ids: as in `run`.

        Raises:
            InputError: an unknown site or bad inputs.
        """
        numbers = {self._trunk.below([self.site(site)]) for site in sites} - {0}
        if not numbers:
            return Prefix(self.module, {})
        forward = self._calls.of(inputs, attention_mask, position_ids)
        last = self.site(f"blocks.{max(numbers) - 1}.resid_post")
        with torch.inference_mode(), self._trunk.recorded(numbers) as outputs:
            self._pass([last], {}, forward).run(forward, stop=True)
        return Prefix(self.module, outputs)

    def logits(self, inputs: Inputs | Text | Ids | Tokens) -> Tensor:
        """The logits of an unedited pass, `[batch, position, vocab]`."""
        return self.run(inputs).logits

    @property
    def supports_4d_mask(self) -> bool:
        """Whether `attention_mask` may be an additive `[batch, 1, query, key]` that alone says who sees whom."""
        return self._calls.supports_4d_mask

    # Read-out

    def unembedding(self) -> Float[Tensor, "vocab d_model"] | None:
        """The matrix that turns the final norm's output into logits; None for a network without one."""
        head = self._readout.head
        return None if head is None else head.weight.detach()

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm before the unembedding, where the family has one."""
        site = self._table.named.get("final_norm")
        return None if site is None else self.module.get_submodule(site.path)

    @one_pass
    @torch.inference_mode()
    def unembed(self, vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of vectors of the last residual stream: final norm, head, and the soft cap where there is one.

        Raises:
            InputError: the network has no head, or is of an unknown family.
        """
        return self._readout.logits(vectors.to(self.device, self.dtype))

    # How

    def _pass(self, reads: Sequence[Site], edits: Mapping[Site, Edit], forward: Callable[[], Any]) -> Pass:
        """A pass that reads and edits these sites, which are looked at first where nothing is known of them."""
        places = [place_of(site) for site in (*reads, *edits, *needed(edits))]
        layouts = self._places.layouts(places, forward)
        self._places.check_order([(need, site) for site, edit in edits.items() for need in needs_of(edit)], forward)
        return Pass(self.module, reads, edits, self._loaded.repeated, layouts)

    def _given(self, inputs: Inputs | Text | Ids | Tokens) -> Inputs | Tokens:
        return inputs if isinstance(inputs, Tensor | Mapping | Tokens) else self.tokens(inputs)

    def _resolved(self, edits: Mapping[Site, Edit] | Mapping[str, Edit] | None) -> dict[Site, Edit]:
        return {
            self.site(site): replace(edit, needs=tuple(map(self.site, edit.needs)))
            if isinstance(edit, EditFrom)
            else edit
            for site, edit in (edits or {}).items()
        }
