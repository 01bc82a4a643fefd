"""A loaded network: its sites, one-pass reads that stop early, and edits."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from polyseme.core.config import fingerprint
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.networks import measure
from polyseme.networks.building import loading
from polyseme.networks.edits import Edit, EditFrom
from polyseme.networks.facts import Facts
from polyseme.networks.families import Family
from polyseme.networks.hooks import Pass, Repeated, logits_of, needed, needs_of, rows_at
from polyseme.networks.inputs import Inputs, declared_context, example_inputs, keyword_inputs, moved
from polyseme.networks.ladders import Rung
from polyseme.networks.offline import passing
from polyseme.networks.passes import exclusive, one_pass
from polyseme.networks.places import Places
from polyseme.networks.prefix import Prefix, trunk_of
from polyseme.networks.readout import ReadOut
from polyseme.networks.sites import SiteTable
from polyseme.networks.survey import Seen, place_of, width_of
from polyseme.networks.texts import Ids, Reads, Text, Texts, Tokens, reads_of
from polyseme.networks.weights import weights_fingerprint


@dataclass(frozen=True)
class Output:
    """What one forward pass gives.

    Attributes:
        logits: `[batch, position, vocab]`; `[selected, vocab]` under `logits_at`; for a network without a head, its
            first output.
        reads: each site's vectors before its own edits, as ordinary tensors the caller owns.
    """

    logits: Tensor
    reads: Reads


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
        origin: what made it from another network, which has the fingerprint `weights`; empty for one that was loaded.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        run: Callable[[nn.Module, Any], Any] | None,
        family: Family | None,
        base: str,
        tokenizer: Any | None,
        causal: bool | None,
        predicts_tokens: bool | None,
        context: int | None,
        example_inputs: Inputs | None,
        repeated: Repeated,
        ladder: tuple[Rung, ...] = (),
    ):
        self.module = module
        self.tokenizer = tokenizer
        self.family = family.name if family else "unknown"
        self.ladder = ladder
        self.origin: Mapping[str, Any] = {}
        self._causal = causal
        self._predicts_tokens = predicts_tokens
        self._context = context
        self._facts = Facts(module, run, tokenizer, example_inputs)
        self._texts = Texts(tokenizer, type(module).__name__)
        self._run = run
        self._family = family
        self._base = base
        # A network that reads pictures too has a config of its own around the language model's.
        self._config = getattr(module.get_submodule(base.removesuffix(".")), "config", None)
        self._is_inside = self._config is not getattr(module, "config", None)
        self._example_inputs = example_inputs
        self._repeated: Repeated = repeated
        self._table = SiteTable(module, base=base, family=family, config=self._config)
        self._trunk = trunk_of(module, base, None if run is not None else family)
        self._widths: dict[Site, int] = {}
        self._readout = ReadOut(module, base, family, self._config)
        self._places = Places(module, self._facts, self._readout, self._table.named.values())

    def __repr__(self) -> str:
        return f"Network({type(self.module).__name__}, family={self.family!r}, {self.n_blocks} blocks)"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensor = next(self.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

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
        return self._fingerprint

    def hash_weights(self, reporter: Reporter) -> str:
        """`fingerprint`, with its progress where it is computed first: large weights take a while."""
        if not self.origin and "_fingerprint" not in self.__dict__:
            self.__dict__["_fingerprint"] = weights_fingerprint(self.module, reporter)
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.origin) if self.origin else weights_fingerprint(self.module)

    def changed(self, change: Callable[[nn.Module, Collection[str]], None], made: Mapping[str, Any]) -> "Network":
        """The network on a copy of its module, with other weights; its fingerprint says what they were made from.

        Args:
            change: takes the copied module and the names of the parameters that embed its input.
            made: what `change` does, as JSON; with the fingerprint of this network it names the other.
        """
        with exclusive(self.module):  # no hooks of a pass are copied with it
            module = copy.deepcopy(self.module)
        known = self._family.embeddings if self._family else ()
        change(module, [f"{self._base}{name}" for name in known])
        module.requires_grad_(False)
        network = Network(
            module,
            run=self._run,
            family=self._family,
            base=self._base,
            tokenizer=self.tokenizer,
            causal=self._causal,
            predicts_tokens=self._predicts_tokens,
            context=self._context,
            example_inputs=self._example_inputs,
            repeated=self._repeated,
        )
        network.origin = {"weights": self.fingerprint, **made}
        return network

    # What it is, measured once where it is asked for (`networks.facts`)

    @property
    def facts(self) -> Facts:
        """What was measured, whatever `load_network` was given."""
        return self._facts

    @property
    def reads_tokens(self) -> bool:
        """Whether its main input is token ids, and a pass needs nothing else."""
        return self._facts.reads_tokens

    @property
    def causal(self) -> bool:
        """Whether position t sees only positions up to t; False for a network that reads no tokens."""
        return bool(self._facts.causal) if self._causal is None else self._causal

    @property
    def predicts_tokens(self) -> bool:
        """Whether it predicts the next token: it is causal, and gives logits over the tokens it reads at each."""
        if self._predicts_tokens is not None:
            return self._predicts_tokens
        return self.causal and self._facts.gives_logits

    @property
    def no_prediction(self) -> str | None:
        """Why it predicts no next token; None where it does."""
        if self.predicts_tokens:
            return None
        if self._predicts_tokens is not None:
            return "it was loaded with predicts_tokens=False"
        if self._causal is False and self._facts.causal:
            return "it was loaded with causal=False"
        return self._facts.no_prediction

    @property
    def vocabulary(self) -> int | None:
        """Token ids are below this; None where that is not known."""
        return self._facts.vocabulary

    @property
    def context(self) -> int | None:
        """Most positions a window may have; None where there is no limit.

        What `load_network` was given, else what the config says, or less where a table of positions is shorter: one
        whose first rows belong to padding (RoBERTa), say.
        """
        return self._context if self._context is not None else self._facts.context

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

    def widths(self, sites: Sequence[str | Site]) -> dict[Site, int]:
        """Length of each site's vectors, all from one pass at most.

        Raises:
            InputError: as `width`, or a site that holds no vectors.
        """
        wanted = [self.site(site) for site in sites]
        for site, seen in self.survey([site for site in wanted if site not in self._widths]).items():
            problem = seen.problem(None)
            if problem is not None:
                raise InputError(f"The site {site} has no width: {problem}", fix="name another site")
            assert seen.shape is not None
            self._widths[site] = width_of(seen.shape[-1], site)
        return {site: self._widths[site] for site in wanted}

    def module_widths(self) -> dict[str, int]:
        """Path and width of every module that gives vectors, one for each token where the network reads tokens.

        Modules that are called several times, and those that give what the network returns, are left out.

        Raises:
            InputError: inputs that run are not known, and the network came without `example_inputs`.
        """
        sites = {name: Site(path=name) for name in self.site_names(modules=True) if name not in self._table.named}
        tokens = self._facts.few_tokens if self.reads_tokens else None
        found = self.survey(list(sites.values()))
        widths: dict[str, int] = {}
        for name, site in sites.items():
            seen = found[site]
            usable = seen.problem(None if tokens is None else tokens.shape) is None and not seen.is_output
            if usable and (width := seen.width(site)) is not None:
                widths[name] = width
        return widths

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
        wanted = {site: place_of(site) for site in map(self.site, sites)}
        if not wanted:
            return {}
        if tokens is not None:
            seen = self._places.look(set(wanted.values()), self._forward(tokens, None, None), tokens.shape)
        elif self.reads_tokens:
            seen = self._places.look_at_tokens(set(wanted.values()))
        else:
            forward = self._forward(self._example(), None, None)
            fix = "pass example_inputs= that run to load_network"
            with loading("The network does not run on its example inputs", type(self.module).__name__, fix):
                seen = self._places.look(set(wanted.values()), forward)
        return {site: seen[place] for site, place in wanted.items()}

    def check_order(self, reads: Sequence[str | Site], writes: Sequence[str | Site]) -> None:
        """Refuse reads that a forward pass comes to later than to a write that depends on them.

        Raises:
            InputError: names the two sites; or it takes a pass to know, and the network came without `example_inputs`.
        """
        self._places.check_order(self._pairs(reads, writes), lambda: self._forward(self._example(), None, None))

    def in_order(self, reads: Sequence[str | Site], writes: Sequence[str | Site]) -> bool:
        """Whether a forward pass comes to none of `reads` later than to any of `writes`.

        Raises:
            InputError: it takes a pass to know, and the network came without `example_inputs`.
        """
        return not self._places.late(self._pairs(reads, writes), lambda: self._forward(self._example(), None, None))

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
        forward = self._forward(given, attention_mask, position_ids)
        passing = self._pass(reads, resolved, forward)
        # Whether a module is called again shows only in a pass that runs to its end.
        places = [place_of(site) for site in (*reads, *resolved, *needed(resolved))]
        once = all(at.calls == 1 for at in self._places.know(places, forward).values())
        with torch.inference_mode():
            passing.run(forward, stop=once or self._repeated == "first")
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
        forward = self._forward(given, attention_mask, position_ids)
        passing = self._pass(asked, resolved, forward)
        sites = [*asked, *resolved, *needed(resolved)]
        head = self._readout.head if logits_at is not None and not self._readout.sees_any(sites) else None
        with torch.inference_mode(), self._trunk.skipped(prefix, sites):
            if logits_at is None:
                logits = logits_of(passing.run(forward, stop=False))
            elif head is None:
                logits = logits_of(passing.run(forward, stop=False))[logits_at.to(self.device)]
            else:
                handle = head.register_forward_pre_hook(rows_at(logits_at.to(self.device)))
                try:
                    logits = logits_of(passing.run(forward, stop=False))
                finally:
                    handle.remove()
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
        forward = self._forward(inputs, attention_mask, position_ids)
        last = self.site(f"blocks.{max(numbers) - 1}.resid_post")
        with torch.inference_mode(), self._trunk.recorded(numbers) as outputs:
            self._pass([last], {}, forward).run(forward, stop=True)
        return Prefix(self.module, outputs)

    def logits(self, inputs: Inputs | Text | Ids | Tokens) -> Tensor:
        """The logits of an unedited pass, `[batch, position, vocab]`."""
        return self.run(inputs).logits

    @cached_property
    def supports_4d_mask(self) -> bool:
        """Whether `attention_mask` may be an additive `[batch, 1, query, key]` that alone says who sees whom."""
        if self._run is not None or self._is_inside or self._family is None or not self._family.mask_4d:
            return False
        if getattr(self._config, "_attn_implementation", None) not in ("sdpa", "eager"):
            return False
        window: int | None = getattr(self._config, "sliding_window", None)
        if window is None or not getattr(self._config, "use_sliding_window", True):
            return True
        return self.context is not None and window >= self.context

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

    def _context_for(self, positions: int) -> int | None:
        """The context that a window of so many positions is checked against; measured where it may be too long."""
        declared = self._context if self._context is not None else declared_context(self._config)
        is_short = positions <= measure.SHORT if declared is None else 2 * positions <= declared
        return declared if is_short else self.context

    def _pass(self, reads: Sequence[Site], edits: Mapping[Site, Edit], forward: Callable[[], Any]) -> Pass:
        """A pass that reads and edits these sites, which are looked at first where nothing is known of them."""
        places = [place_of(site) for site in (*reads, *edits, *needed(edits))]
        layouts = self._places.layouts(places, forward)
        self._places.check_order(
            [(need, site) for site, edit in edits.items() for need in needs_of(edit)], lambda: forward
        )
        return Pass(self.module, reads, edits, self._repeated, layouts)

    def _example(self) -> Inputs:
        if self._example_inputs is None:
            self._example_inputs = example_inputs(self.module)
        return self._example_inputs

    def _given(self, inputs: Inputs | Text | Ids | Tokens) -> Inputs | Tokens:
        return inputs if isinstance(inputs, Tensor | Mapping | Tokens) else self.tokens(inputs)

    def _forward(
        self, inputs: Inputs | Tokens, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> Callable[[], Any]:
        """Check the inputs, move them to the device and return what runs the network on them."""
        if isinstance(inputs, Tokens):
            if attention_mask is None and not bool(inputs.present.all()) and not self.causal:
                attention_mask = inputs.present.long()
            inputs = inputs.ids
        if self._run is not None:
            if attention_mask is not None or position_ids is not None:
                raise InputError(
                    "A network with a run callable takes no attention_mask or position_ids",
                    fix="put them into the inputs its run callable gets",
                )
            run, there = self._run, moved(inputs, self.device)
            return lambda: run(self.module, there)
        if attention_mask is not None and attention_mask.dim() == 4:
            if not self.supports_4d_mask:
                raise InputError(
                    "This network does not take a [batch, 1, query, key] attention mask",
                    where=type(self.module).__name__,
                    fix="check network.supports_4d_mask, and run the sequences apart where it is False",
                )
            if attention_mask.is_floating_point():
                attention_mask = attention_mask.to(self.dtype)
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        kwargs = moved(keyword_inputs(self.module, inputs, given, self._context_for), self.device)
        return lambda: self._call(kwargs)

    def _call(self, kwargs: Mapping[str, Any]) -> Any:
        with passing(self.module):
            return self.module(**kwargs)

    def _resolved(self, edits: Mapping[Site, Edit] | Mapping[str, Edit] | None) -> dict[Site, Edit]:
        return {
            self.site(site): replace(edit, needs=tuple(map(self.site, edit.needs)))
            if isinstance(edit, EditFrom)
            else edit
            for site, edit in (edits or {}).items()
        }
