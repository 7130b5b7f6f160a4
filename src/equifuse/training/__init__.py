"""Training runs: configuration, the run folder, evaluation and prediction. Lightning is loaded when training starts."""

from equifuse.training.config import TrainConfig
from equifuse.training.evaluation import evaluate_model, evaluate_run
from equifuse.training.exporting import export_run
from equifuse.training.folder import Run, initial_model, load_run
from equifuse.training.prediction import predict_run
from equifuse.training.runner import RunResult, train
from equifuse.training.shards import predict_shards

__all__ = [
    "Run",
    "RunResult",
    "TrainConfig",
    "evaluate_model",
    "evaluate_run",
    "export_run",
    "initial_model",
    "load_run",
    "predict_run",
    "predict_shards",
    "train",
]
