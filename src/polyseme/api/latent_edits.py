"""One latent of a dictionary as an edit of a network: taken out of the vectors, or added to them."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from polyseme.api.given import check_dictionary
from polyseme.core.batch import check_latent
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.core.validation import check_kind
from polyseme.dictionaries import SparseDictionary
from polyseme.networks.edits import Change, Edit, EditFrom, add, masked


def ablate(
    dictionary: SparseDictionary,
    latent: int | Sequence[int] | Int[np.ndarray, " latent"] | Int[Tensor, " latent"],
    *,
    reads: Site | None = None,
    positions: Bool[Tensor, "#batch position"] | None = None,
) -> Edit:
    """Take a latent out of the vectors of the site that the dictionary writes: x − f(x) d, with its activation f and
    its unit write direction d; several latents at once, each with the activation it has in x.

    >>> dictionary = polyseme.TopKConfig(n_latents=64, k=4).build(224, seed=0)
    >>> network = polyseme.load_network("pylm")
    >>> network.run("import os", edits={"blocks.2.resid_post": polyseme.ablate(dictionary, 17)}).logits.shape
    torch.Size([1, 3, 4096])

    Args:
        dictionary: an autoencoder of the site that is edited; or a transcoder that writes it.
        latent: its index, or several.
        reads: for a transcoder the site it reads, `network.site(name)`.
        positions: where; everywhere by default.

    Raises:
        InputError: no such latent; a transcoder without the site it reads.
    """
    check_dictionary(dictionary, SparseDictionary)
    _check_places(reads, positions)
    several: Iterable[object] = [latent] if np.ndim(latent) == 0 else latent  # pyright: ignore[reportAssignmentType]
    latents = [check_latent(one, dictionary.n_latents) for one in several]
    if not latents:
        raise InputError("there is no latent to ablate", where="latent", fix="give its index, or several")
    directions = dictionary.write_directions()[latents]
    if dictionary.is_transcoder and reads is None:
        raise InputError(
            "a transcoder's latents come from another site than the one it writes",
            where="ablate",
            fix="give the site it reads: reads=network.site(name)",
        )

    def part(vectors: Tensor) -> Tensor:
        z = dictionary.encode(vectors.to(directions))
        return torch.stack([z.of(one) for one in latents], -1) @ directions

    def apart(x: Tensor, read: Mapping[Site, Tensor]) -> Tensor:
        return x - part(read[reads]).to(x) if reads is not None else x

    edit = (lambda x: x - part(x).to(x)) if reads is None else EditFrom((reads,), apart)
    return masked(edit, positions)


def steer(
    dictionary: SparseDictionary,
    latent: int,
    amount: float,
    *,
    positions: Bool[Tensor, "#batch position"] | None = None,
) -> Change:
    """Add a latent to the vectors of the site that the dictionary writes: x + amount × d, d its unit write direction.

    >>> dictionary = polyseme.TopKConfig(n_latents=64, k=4).build(224, seed=0)
    >>> x = torch.zeros(224)
    >>> torch.equal(polyseme.steer(dictionary, 17, 3.0)(x), 3 * dictionary.write_directions()[17])
    True

    Args:
        dictionary: of the site that is edited.
        latent: its index.
        amount: in the units of its activations; below 0 it is taken away.
        positions: where; everywhere by default.

    Raises:
        InputError: no such latent, or an amount that is no number.
    """
    check_dictionary(dictionary, SparseDictionary)
    _check_places(None, positions)
    try:
        is_number = math.isfinite(amount) and not isinstance(amount, bool)
    except TypeError:
        is_number = False
    if not is_number:
        raise InputError(f"an amount of {amount} is no number", where="steer", fix="give one, such as 5.0")
    direction = dictionary.write_directions()[check_latent(latent, dictionary.n_latents)]
    return add(amount * direction, positions=positions)


def _check_places(reads: object, positions: object) -> None:
    if reads is not None:
        check_kind(
            reads, Site, "site", where="reads", fix="give the site that the dictionary reads: network.site(name)"
        )
    if positions is not None:
        fix = "give a boolean tensor [batch, position], True where it is edited"
        check_kind(positions, Tensor, "mask of positions", where="positions", fix=fix)
