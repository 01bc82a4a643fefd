"""Small stand-ins: a dictionary of given directions, random windows, firings of given activations."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from polyseme.activations.firings import Firings
from polyseme.causal import Meanings
from polyseme.corpora.pack import PADDING, Windows


@dataclass
class Directions:
    """A dictionary as far as causal tests go."""

    directions: Tensor

    @property
    def n_latents(self) -> int:
        return len(self.directions)

    def write_directions(self) -> Tensor:
        return self.directions


def random_windows(n_windows: int, context: int, *, vocabulary: int, n_documents: int, seed: int = 0) -> Windows:
    """Windows of random tokens, each opened by a special one, shared out among documents; the last one is padded."""
    rng = np.random.default_rng(seed)
    document = np.sort(rng.integers(0, n_documents, (n_windows, 1)), axis=0).repeat(context, axis=1).astype(np.int32)
    special = np.zeros((n_windows, context), dtype=bool)
    special[:, 0] = True
    special[-1, -2:] = True
    document[-1, -2:] = PADDING
    return Windows(
        tokens=rng.integers(1, vocabulary, (n_windows, context)).astype(np.int32),
        document=document,
        special=special,
        names=tuple(f"document {i}" for i in range(n_documents)),
        n_bytes=np.ones(n_documents, dtype=np.int64),
    )


def firings_of(windows: Windows, activations: np.ndarray) -> Firings:
    """Firings of dense activations [counted token, latent]."""
    window, position = (~windows.special).nonzero()
    matrix = csr_array(np.asarray(activations, dtype=np.float32))
    ids = (windows.tokens[window, position], windows.document[window, position], window, position)
    return Firings(matrix, *(np.asarray(x, dtype=np.int32) for x in ids))


def random_firings(windows: Windows, n_latents: int, *, density: float, seed: int = 0) -> Firings:
    """Latents that fire at random tokens with random strengths."""
    rng = np.random.default_rng(seed)
    shape = (windows.n_tokens, n_latents)
    return firings_of(windows, (rng.random(shape) < density) * rng.uniform(0.5, 3.0, shape))


def meanings_of(firings: Firings, windows: Windows, vocabulary: int) -> Meanings:
    """What latents stand for where the text they are tested on is all there is."""
    return Meanings.learn(firings, windows, vocabulary)
