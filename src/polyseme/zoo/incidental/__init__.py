"""The toy `incidental`."""

from polyseme.zoo.incidental import toy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    toy.IncidentalToy,
    (
        Experiment("count", "fast", "polysemantic neurons beside n(n − 1)/4m", toy.count),
        Experiment("room", "slow", "the same from n to 16n neurons", toy.room),
        Experiment("published", "long", "the same at the paper's sizes", toy.published, resumable=True),
    ),
    {"count": toy.count_figure},
)
