"""What a dictionary is before training: which ones there cannot be, and what the others' weights are drawn as."""

from collections.abc import Collection

import torch
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.seeds import make_generator
from polyseme.dictionaries.engine.activation import Activation, LooksTwice
from polyseme.dictionaries.protocol import Direction


def check_buildable(activation: Activation, *, is_transcoder: bool, frozen: Collection[Direction]) -> None:
    """Refuse what an architecture cannot be.

    Raises:
        InputError: a tied transcoder, one that encodes twice, or a tied dictionary of which one direction is frozen.
    """
    if activation.tied and is_transcoder:
        raise InputError(
            "a transcoder cannot be tied",
            where="dictionary.tie_weights",
            fix="set it to false, or train an autoencoder",
        )
    if isinstance(activation, LooksTwice) and activation.eta and is_transcoder:
        raise InputError(
            "a transcoder's residual is not where it reads, so it cannot be encoded again",
            where="dictionary.eta",
            fix="set it to 0, or train an autoencoder",
        )
    if activation.tied:
        check_tied(frozen)


def check_tied(frozen: Collection[Direction]) -> None:
    """Refuse to freeze one direction of a tied dictionary and train the other.

    Raises:
        InputError: one direction is frozen.
    """
    if len(frozen) == 1:
        raise InputError(
            f"a tied dictionary reads and writes along the same directions, so its {next(iter(frozen))} directions "
            "cannot be frozen alone",
            where="dictionary.tie_weights",
            fix="set it to false, or freeze both",
        )


def first_parameters(
    activation: Activation,
    d_in: int,
    d_out: int,
    *,
    is_transcoder: bool,
    like: Tensor,
    spread: float,
    seed: int | None,
) -> dict[str, Tensor]:
    """Weights and biases, and the architecture's own parameters.

    Decoder rows are random unit vectors; an autoencoder's encoder is their transpose, a transcoder's has random rows of
    its own, both times `spread`. Biases are zero.

    Args:
        activation: the architecture.
        d_in, d_out: widths.
        is_transcoder: it writes elsewhere than it reads.
        like: one number a latent, of the device and dtype that they are to have.
        spread: norm of an encoder row.
        seed: of the rows; None: zeros, to be filled.
    """
    n_latents = len(like)

    def unit_rows(name: str, width: int) -> Tensor:
        if seed is None:
            return like.new_zeros(n_latents, width)
        rows = torch.randn(n_latents, width, generator=make_generator(seed, name), dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=1).to(like)

    W_dec = unit_rows("W_dec", d_out)
    parameters = {
        "W_dec": W_dec,
        "b_enc": like.new_zeros(n_latents),
        "b_dec": like.new_zeros(d_out),
        **activation.parameters,
    }
    if not activation.tied:
        parameters["W_enc"] = (unit_rows("W_enc", d_in) if is_transcoder else W_dec) * spread
    return parameters
