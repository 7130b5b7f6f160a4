"""Training on Lightning, run folders, evaluation and prediction. Import it only when needed: Lightning is heavy."""

from equifuse.training.config import TrainConfig
from equifuse.training.runner import RunResult, evaluate, evaluate_run, open_run, predict_run, train

__all__ = ["RunResult", "TrainConfig", "evaluate", "evaluate_run", "open_run", "predict_run", "train"]
