"""The toy `hedging`."""

from polyseme.zoo.hedging import toy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    toy.HedgingToy,
    (
        Experiment("on_off", "fast", "a latent of one size: decoder ∝ f₀ + q f₁", toy.on_off),
        Experiment("free", "fast", "a trained ReLU latent: the first principal component", toy.free),
        Experiment("independent", "fast", "an independent child goes to the bias", toy.independent),
    ),
    {"decoders": toy.decoders},
)
