"""Training: one loop for every dictionary."""

from polyseme.training.config import LeaveOutConfig, TrainingConfig
from polyseme.training.fit import fit
from polyseme.training.jobs import HistoryPoint, Job, TrainedJob

__all__ = ["HistoryPoint", "Job", "LeaveOutConfig", "TrainedJob", "TrainingConfig", "fit"]
