"""The toy `product`."""

from polyseme.zoo.product import toy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    toy.ProductToy,
    (
        Experiment("algebra", "fast", "R² of the hand-built networks", toy.algebra),
        Experiment("networks", "fast", "trained networks read x + y and x − y", toy.networks),
    ),
    {"directions": toy.directions_figure},
)
