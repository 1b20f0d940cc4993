"""The sweep: search spaces, Tune trials, cost accounting and resume."""

from pipeline.search.spaces import SPACES, Trial, sample_trials
from pipeline.search.trial import Recorder, TrialContext
from pipeline.search.tuner import run_trials

__all__ = ["SPACES", "Recorder", "Trial", "TrialContext", "run_trials", "sample_trials"]
