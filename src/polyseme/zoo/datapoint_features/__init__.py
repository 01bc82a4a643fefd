"""The toy `datapoint_features`."""

from polyseme.zoo.datapoint_features import checks
from polyseme.zoo.datapoint_features.toy import DatapointFeaturesToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    DatapointFeaturesToy,
    (
        Experiment("few", "fast", "five examples form a pentagon", checks.few),
        Experiment("few-wide", "slow", "the same with the config's own features", checks.few_wide),
        Experiment("bump", "long", "the test loss has a maximum inside", checks.bump, resumable=True),
        Experiment("decay", "long", "weight decay 1 removes it in four dimensions", checks.decayed, resumable=True),
    ),
    {"hidden": checks.hidden_figure, "loss": checks.loss_figure},
)
