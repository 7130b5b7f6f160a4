"""AutoGluon-Tabular on the columns of all modalities side by side; runs in an environment of its own."""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from autogluon.tabular import TabularPredictor, __version__

PROBLEMS = {"classification": ("multiclass", "accuracy"), "regression": ("regression", "mean_absolute_error")}


def main() -> None:
    """Fit on the training rows, and write what is predicted of the test rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("given", help="arrays train, target, test")
    parser.add_argument("answer", help="file to write: arrays prediction, version, models, fit_seconds")
    parser.add_argument("--task", choices=sorted(PROBLEMS), required=True)
    parser.add_argument("--time-limit", type=float, required=True)
    parser.add_argument("--presets", default="best_quality")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", help="not used: AutoGluon takes none")
    parser.add_argument("--clock", choices=["wall"], default="wall")
    parser.add_argument("--work", required=True, help="folder for its models")
    options = parser.parse_args()
    with np.load(options.given, allow_pickle=False) as arrays:
        train, target, test = arrays["train"], arrays["target"], arrays["test"]
    names = [f"x{i}" for i in range(train.shape[1])]
    table = pd.DataFrame(train, columns=names).assign(target=target)
    problem, metric = PROBLEMS[options.task]
    if problem == "multiclass" and len(np.unique(target)) == 2:
        problem = "binary"
    predictor = TabularPredictor("target", problem_type=problem, eval_metric=metric, path=options.work, verbosity=1)
    began = time.monotonic()
    predictor.fit(table, time_limit=options.time_limit, presets=options.presets, num_cpus=options.cores)
    seconds = time.monotonic() - began
    prediction = predictor.predict(pd.DataFrame(test, columns=names)).to_numpy()
    models = len(predictor.model_names())
    np.savez(options.answer, prediction=prediction, version=__version__, models=models, fit_seconds=seconds)


if __name__ == "__main__":
    main()
