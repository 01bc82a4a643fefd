"""The toy `missed_solution`."""

from polyseme.zoo.missed_solution import toy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    toy.MissedSolutionToy,
    (
        Experiment("and", "fast", "AND of five inputs with ten and with forty neurons", toy.conjunctions),
        Experiment("abs", "fast", "|x| of six inputs", toy.absolute_values),
        Experiment("sparse_abs", "slow", "|x| of twenty sparse inputs", toy.sparse_absolute_values),
    ),
)
