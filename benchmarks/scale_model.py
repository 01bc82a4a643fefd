"""What a TopK training step should cost, from its shape and four measured rates; nothing is fitted.

With B vectors of width d, n latents and k active ones, in float32, a step of one dictionary is

    product     the encoder's, 2 B n d operations, at the rate of the engine's own routine: of bytes, where it goes by
                bytes, else of floats in blocks, which read W_enc once and x once a block and are not faster than that
    selection   by bytes: the float32 scores of as many candidates as normal vectors have, a row of d numbers each;
                otherwise B n pre-activations looked through, block by block, in cache
    order       the k B entries sorted by latent
    entries     the reconstruction with its products, and both weight gradients: each fetches a row of d numbers for
                each of k B entries (the products fetch it again, from a cache)
    parameters  Adam reads weight, gradient and two moments and writes all but the gradient, 28 bytes each; the
                gradient's norm reads 4 more; and the passes over W_enc, W_dec and their gradients, `MATRIX_PASSES`
    vectors     passes over the B d numbers of the batch and of its residual, `VECTOR_PASSES`

That is the engine with its compiled loops, as it is where there was a C compiler. Product, order and the selection
from floats go by the rates of these loops alone, all else by the bandwidth of a copy. Caches are left out: what is in
one goes faster than this says.
"""

from dataclasses import dataclass

from polyseme.kernels.int8 import candidates

BLOCK = (1024, 512)
"""Rows and latents of a block, as `polyseme.kernels.tuning.Tuning.block`."""

MATRIX_PASSES = {
    "W_enc rounded to bytes": 1,
    "W_enc' d_bias": 1,
    "weight gradients of both": 2,
    "gradient of W_dec less its part along the rows": 3,
    "row norms of W_dec, and the division": 3,
}
"""Reads and writes of n d numbers."""

VECTOR_PASSES = {
    "centred": 2,
    "scaled": 2,
    "less b_dec": 2,
    "the goal, and the residual": 2,
    "its squares, its sum": 2,
    "statistics: the goal's mean and squares, the residual's squares": 3,
}
"""Reads and writes of B d numbers."""


@dataclass(frozen=True)
class Shape:
    """Of one training step."""

    d: int
    n_latents: int
    k: int
    batch_size: int
    dictionaries: int = 1

    @property
    def parameters(self) -> int:
        """Numbers in W_enc, W_dec, b_enc and b_dec of all dictionaries."""
        return self.dictionaries * (2 * self.n_latents * self.d + self.n_latents + self.d)

    @property
    def flops(self) -> int:
        """Of the encoders' products."""
        return 2 * self.dictionaries * self.batch_size * self.n_latents * self.d

    @property
    def preactivations(self) -> int:
        """Numbers that are selected from."""
        return self.dictionaries * self.batch_size * self.n_latents

    @property
    def entries(self) -> int:
        """Active latents of all vectors."""
        return self.dictionaries * self.batch_size * min(self.k, self.n_latents)

    @property
    def blocks(self) -> int:
        """Blocks of latents that a batch is encoded in."""
        return -(-self.n_latents // BLOCK[1])


@dataclass(frozen=True)
class Rates:
    """What the machine does in a second, measured.

    Attributes:
        flops: operations of the encoder's product, as the engine does it.
        copied: bytes read plus bytes written by a copy too large for the caches.
        selected: pre-activations that the top k alone looks through; None where it goes by bytes.
        ordered: entries that the sort by latent alone puts in order.
    """

    flops: float
    copied: float
    selected: float | None
    ordered: float


def moved(shape: Shape) -> dict[str, int]:
    """Bytes of each term that goes by bandwidth."""
    m, matrix, vectors = shape.dictionaries, shape.n_latents * shape.d, shape.batch_size * shape.d
    return {
        "entries": 3 * 4 * shape.entries * shape.d,
        "parameters": (28 + 4) * shape.parameters + 4 * m * matrix * sum(MATRIX_PASSES.values()),
        "vectors": 4 * m * vectors * sum(VECTOR_PASSES.values()),
    }


def predicted(shape: Shape, rates: Rates) -> dict[str, float]:
    """Milliseconds of each term; their sum is the step."""
    read = 4 * shape.dictionaries * shape.d * (shape.n_latents + shape.blocks * shape.batch_size)
    scores = shape.dictionaries * shape.batch_size * candidates(shape.n_latents, shape.d, shape.k)
    scored = 4 * scores * shape.d / rates.copied
    seconds = {
        "product": max(shape.flops / rates.flops, 0.0 if rates.selected is None else read / rates.copied),
        "selection": shape.preactivations / rates.selected if rates.selected is not None else scored,
        "order": shape.entries / rates.ordered,
        **{name: amount / rates.copied for name, amount in moved(shape).items()},
    }
    return {name: 1e3 * value for name, value in seconds.items()}
