"""What a study asks of its network before any long work, and what it says of it."""

from typing import Any

import torch

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.networks import Network
from polyseme.studies.config import StudyConfig

MAX_DEFAULT_CONTEXT = 1024


def check_network(study: StudyConfig, network: Network, reporter: Reporter) -> None:
    """Refuse a network that a study cannot read.

    Raises:
        InputError: it is an encoder-decoder, reads no text, has no tokenizer, or does not run on tokens.
    """
    where = study.network.source
    if network.facts.is_encoder_decoder:
        raise InputError(
            f"{type(network.module).__name__} is an encoder-decoder: it reads two texts at once, and a study reads one",
            where=where,
            fix="study its encoder alone: save it with model.get_encoder() and its own config, or load its encoder "
            "class (T5EncoderModel), and give that folder",
        )
    reads = getattr(network.module, "main_input_name", "input_ids")
    if reads != "input_ids":
        raise InputError(
            f"a study reads text, and this network ({network.family}) reads {reads}",
            where=where,
            fix="study a language model; read other networks with load_network(…).read, and train on the vectors "
            "with polyseme.activations.TensorSource and polyseme.training.fit",
        )
    if not network.reads_tokens:
        raise InputError(
            f"{type(network.module).__name__} does not run on token ids alone: {_why_not(network)}",
            where=where,
            fix="study a language model, which reads token ids [batch, position]",
        )
    if network.tokenizer is None:
        raise InputError(
            "the network has no tokenizer, so its corpus cannot be read",
            where=where,
            fix="save the tokenizer beside the network, or return (module, tokenizer) from an entry point",
        )
    vocabulary, known = network.vocabulary, len(network.tokenizer)
    if vocabulary is not None and known > vocabulary:
        reporter.message(
            f"the tokenizer has {known:,} entries and the network embeds {vocabulary:,}: a corpus that uses the others "
            "is refused"
        )


def tell_predictions(network: Network, reporter: Reporter) -> None:
    """Say what will not be measured on a network that predicts no next token; it takes a few passes to know."""
    if network.no_prediction is not None:
        reporter.message(
            f"the network does not predict the next token: {network.no_prediction}. Reconstruction and matches of "
            "latents are measured; losses under patches, continuations and causal effects are not"
        )


def study_context(study: StudyConfig, network: Network) -> int:
    """Tokens a window: what the study asks for, else the longest window that the network runs on, up to 1,024.

    Raises:
        InputError: the network does not run on windows that long.
    """
    wanted, most = study.tokens.context, network.context
    if wanted is not None and most is not None and wanted > most:
        raise InputError(
            f"a context of {wanted} is longer than the network's {most}",
            where="tokens.context",
            fix=f"set it to {most} or less, or leave it out",
        )
    asked = wanted or min(most or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)
    longest = network.facts.longest_window(asked)
    if longest < 2 or (wanted is not None and longest < wanted):
        raise InputError(
            f"the network does not run on windows of {asked} tokens: {_why_not(network, asked)}",
            where="tokens.context",
            fix=f"set it to {longest} or less, or leave it out" if longest > 1 else "study another network",
        )
    return longest


def check_tokens(network: Network, most: int, where: str) -> None:
    """Refuse a corpus with tokens that the network does not embed.

    Args:
        network: which reads them.
        most: the highest id.
        where: the network's source.
    """
    vocabulary = network.vocabulary
    if vocabulary is not None and most >= vocabulary:
        text: Any = network.tokenizer.convert_ids_to_tokens(most) if network.tokenizer is not None else None
        raise InputError(
            f"the corpus has the token {most} ({text!r}), and the network embeds ids below {vocabulary}",
            where=where,
            fix="give the tokenizer that belongs to the network",
        )


def _why_not(network: Network, positions: int = 2) -> str:
    """The first line of what the network raises on a window."""
    draw = network.facts.drawing()
    try:
        with torch.inference_mode():
            network.facts.forward(draw(1, positions))
    except Exception as error:  # noqa: BLE001 - whatever the network raises is the reason
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return "it runs on no random tokens"
