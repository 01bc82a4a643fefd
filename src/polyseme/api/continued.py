"""A text continued by a network and by the edited network, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyseme.api.given import check_network, mapping_of
from polyseme.core import html
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.core.text import visible
from polyseme.core.validation import validate_config
from polyseme.corpora.special import ending_ids
from polyseme.evaluation.continuation import ContinuationConfig, compared, write_on
from polyseme.kernels.shield import shielded
from polyseme.networks import Edit, EditFrom, Network
from polyseme.networks.edits import masked
from polyseme.networks.texts import Tokens
from polyseme.screen.progress import reporting


@dataclass(frozen=True)
class Continued:
    """What both networks wrote after a prompt.

    Attributes:
        prompt: the text that was continued.
        clean, edited: the text each network wrote.
        clean_ids, edited_ids: the same as token ids; shorter where a special token ended the text.
        diverges_at: index of the first written token that differs; None where all agree.
        agreement: share of the positions at which both wrote the same token.
    """

    prompt: str
    clean: str
    edited: str
    clean_ids: tuple[int, ...]
    edited_ids: tuple[int, ...]
    diverges_at: int | None
    agreement: float

    @property
    def _summary(self) -> str:
        if self.diverges_at is None:
            return "both networks write the same"
        return f"the texts part at token {self.diverges_at}; {self.agreement:.0%} of the positions agree"

    def __repr__(self) -> str:
        texts = [f"{name:>6}: {visible(text)}" for name, text in self._texts.items()]
        return "\n".join([f"Continued: {self._summary}", *texts])

    def _repr_html_(self) -> str:
        lines = [html.line(html.marked(text, 0, ""), name, "") for name, text in self._texts.items()]
        return html.frame(f"Continued: {self._summary}", *lines)

    @property
    def _texts(self) -> dict[str, str]:
        return {"prompt": self.prompt, "clean": self.clean, "edited": self.edited}


@shielded
def continue_text(
    network: Network,
    text: str | Tokens,
    edits: Mapping[str, Edit] | Mapping[Site, Edit],
    *,
    n_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Continued:
    """Continue a text with the network and with the edited network.

    Both see the same prompt and draw with the same noise, so that the texts part only where their predictions do.
    Special tokens (what opens the text) keep the network's own vectors; every other token is edited, the prompt's too.

    >>> network = polyseme.load_network("pylm")
    >>> dictionary = polyseme.TopKConfig(n_latents=64, k=4).build(224, seed=0)
    >>> polyseme.continue_text(
    ...     network, "import os\\nimport", {"blocks.2.resid_post": polyseme.steer(dictionary, 17, 200.0)}, n_tokens=4
    ... )
    Continued: the texts part at token 0; 0% of the positions agree
    prompt: import os↵import
     clean:  sys↵import sys
    edited: EnEnEnEn

    Args:
        network: a causal language model with a tokenizer.
        text: the prompt.
        edits: site to edit: `polyseme.ablate`, `polyseme.steer`, or any function from vectors to vectors.
        n_tokens: how many are written.
        temperature: 0 takes the likeliest token; above, tokens are drawn.
        seed: of the noise.
        reporter: receives the number of tokens written; by default a bar in a notebook and on a terminal.

    Raises:
        InputError: several texts, a network that does not predict the next token, or more tokens than its context.
    """
    check_network(network)
    prompt = text if isinstance(text, Tokens) else network.tokens(text)
    if len(prompt) != 1:
        raise InputError(f"one text is continued at a time, not {len(prompt)}", where="text", fix="call it for each")
    if not network.predicts_tokens:
        raise InputError(f"the network cannot continue a text: {network.no_prediction}", fix="take a language model")
    n_prompt = prompt.ids.shape[1]
    given = {"prompt_tokens": n_prompt, "new_tokens": n_tokens, "temperature": temperature, "seed": seed}
    config = validate_config(given, ContinuationConfig, where="continue_text", fix="give a number in this range")
    if network.context is not None and n_prompt + n_tokens > network.context:
        raise InputError(
            f"a text of {n_prompt} tokens and {n_tokens} new ones are more than the network's context, "
            f"{network.context}",
            where="n_tokens",
            fix=f"write at most {max(0, network.context - n_prompt)}, or shorten the text",
        )
    at = {network.site(site): edit for site, edit in mapping_of(edits, "edits").items()}
    for site, edit in at.items():
        if not callable(edit) and not isinstance(edit, EditFrom):
            fix = "give polyseme.ablate(…), polyseme.steer(…) or a function from vectors to vectors"
            raise InputError(f"an object of type {type(edit).__name__} is no edit", where=str(site), fix=fix)
    special, hidden = ending_ids(network.tokenizer)
    with reporting(reporter) as told:
        progress = told.task("text, clean and edited", 2 * n_tokens, "tokens")
        clean, edited = (
            write_on(
                network,
                prompt.ids,
                prompt.counted,
                lambda _, counted, chosen=chosen: {site: masked(edit, counted) for site, edit in chosen.items()},
                special,
                config,
                lambda written, start=start: progress.update(start + written),
            )[0]
            for start, chosen in ((0, {}), (n_tokens, at))
        )
    tokenizer: Any = network.tokenizer
    prompted, wrote, wrote_edited = (
        str(tokenizer.decode([token for token in row if token not in hidden]))
        for row in (prompt.ids[0].tolist(), clean, edited)
    )
    return Continued(prompted, wrote, wrote_edited, tuple(clean), tuple(edited), *compared(clean, edited))
