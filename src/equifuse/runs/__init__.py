"""Runs: configuration, the run folder, and everything that is done with a finished run. Lightning is loaded late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.runs.compare import Comparison as Comparison
    from equifuse.runs.compare import compare_run as compare_run
    from equifuse.runs.config import TrainConfig as TrainConfig
    from equifuse.runs.cross_validation import CrossValidation as CrossValidation
    from equifuse.runs.cross_validation import Spread as Spread
    from equifuse.runs.cross_validation import cross_validate as cross_validate
    from equifuse.runs.distill import Distilled as Distilled
    from equifuse.runs.distill import distill_run as distill_run
    from equifuse.runs.embed import Clusters as Clusters
    from equifuse.runs.embed import Embedded as Embedded
    from equifuse.runs.embed import embed_run as embed_run
    from equifuse.runs.evaluate import Measured as Measured
    from equifuse.runs.evaluate import Part as Part
    from equifuse.runs.evaluate import evaluate_run as evaluate_run
    from equifuse.runs.evaluate import measure_run as measure_run
    from equifuse.runs.export import export_run as export_run
    from equifuse.runs.finetune import FineTuned as FineTuned
    from equifuse.runs.finetune import finetune_run as finetune_run
    from equifuse.runs.folder import Run as Run
    from equifuse.runs.folder import load_run as load_run
    from equifuse.runs.impute import Imputed as Imputed
    from equifuse.runs.impute import impute_run as impute_run
    from equifuse.runs.markers import markers_run as markers_run
    from equifuse.runs.predict import predict_run as predict_run
    from equifuse.runs.prepare import initial_model as initial_model
    from equifuse.runs.robustness import robustness as robustness
    from equifuse.runs.shards import predict_shards as predict_shards
    from equifuse.runs.training import RunResult as RunResult
    from equifuse.runs.training import train as train

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.runs.compare": ["Comparison", "compare_run"],
        "equifuse.runs.config": ["TrainConfig"],
        "equifuse.runs.cross_validation": ["CrossValidation", "Spread", "cross_validate"],
        "equifuse.runs.distill": ["Distilled", "distill_run"],
        "equifuse.runs.embed": ["Clusters", "Embedded", "embed_run"],
        "equifuse.runs.evaluate": ["Measured", "Part", "evaluate_run", "measure_run"],
        "equifuse.runs.export": ["export_run"],
        "equifuse.runs.finetune": ["FineTuned", "finetune_run"],
        "equifuse.runs.folder": ["Run", "load_run"],
        "equifuse.runs.impute": ["Imputed", "impute_run"],
        "equifuse.runs.markers": ["markers_run"],
        "equifuse.runs.predict": ["predict_run"],
        "equifuse.runs.prepare": ["initial_model"],
        "equifuse.runs.shards": ["predict_shards"],
        "equifuse.runs.training": ["RunResult", "train"],
    },
)
