"""flexynesis' DirectPred, each modality a layer, tuned until the time is up; runs in an environment of its own.

flexynesis is for non-commercial use (PolyForm Noncommercial 1.0.0): this program is started by the benchmark, and
equifuse neither imports nor needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from flexynesis import __version__
from flexynesis.config import search_spaces
from flexynesis.data import DataImporter, MultiOmicDataset
from flexynesis.main import HyperparameterTuning
from flexynesis.models import DirectPred
from lightning import Callback, LightningModule, Trainer, seed_everything

# Those of the command `flexynesis`; but for the time, tuning ends after 100 iterations, or 20 without a gain.
CLEANING = {"min_features": 500, "top_percentile": 20, "correlation_threshold": 0.8, "variance_threshold": 0.01}
TRAINING = {"val_size": 0.2, "early_stop_patience": 10, "num_workers": 0}
TIME, EVENT = "time", "event"
_BAD = 1e9


CLOCKS = {"wall": time.monotonic, "thread": time.thread_time}


class TimeUp(Exception):
    """There is no time for another iteration."""


class Ending(Callback):  # type: ignore[misc]
    """Ends a training when the time is up; what it has reached then counts.

    Args:
        clock: seconds.
        ends: when, by it.
    """

    def __init__(self, clock: Callable[[], float], ends: float) -> None:
        self.clock, self.ends = clock, ends

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *of_batch: Any) -> None:
        """Look at the clock."""
        trainer.should_stop = trainer.should_stop or self.clock() >= self.ends


class Tuning(HyperparameterTuning):  # type: ignore[misc]
    """flexynesis' search, ended by the clock, of which the best so far is kept.

    Args:
        clock: seconds.
        ends: when there is no further iteration, by it.
        settings: of flexynesis' own.
    """

    def __init__(self, clock: Callable[[], float], ends: float, **settings: Any) -> None:
        # The search adds the batch size to the space that it is given, which is the one of the package.
        space = search_spaces["DirectPred"]
        search_spaces["DirectPred"] = list(space)
        try:
            super().__init__(model_class=DirectPred, config_name="DirectPred", n_iter=10**6, **settings)
        finally:
            search_spaces["DirectPred"] = space
        self.clock, self.ends = clock, ends
        self.iterations, self.best, self.model = 0, float("inf"), None

    def setup_trainer(self, *words: Any, **settings: Any) -> Any:
        """One of flexynesis' own, which ends when the time is up."""
        trainer, stopping = super().setup_trainer(*words, **settings)
        trainer.callbacks.append(Ending(self.clock, self.ends))
        return trainer, stopping

    def objective(self, *words: Any, **settings: Any) -> Any:
        """One iteration: the loss on the validation rows, the epochs and the model."""
        if self.iterations and self.clock() >= self.ends:
            raise TimeUp
        loss, epochs, model = super().objective(*words, **settings)
        self.iterations += 1
        if loss < self.best or self.model is None:
            self.best, self.model = float(loss), model
        # The search ends in an error where a training diverged.
        return loss if np.isfinite(loss) else _BAD, epochs, model


def prepared(
    train: list[np.ndarray], test: list[np.ndarray], annotation: pd.DataFrame
) -> tuple[MultiOmicDataset, MultiOmicDataset]:
    """Cleaned, selected and scaled by flexynesis, all rows kept.

    Of itself it would leave out the rows of which a layer is missing or is the same in all columns, and the columns
    missing in a tenth of the rows: what is missing is the mean of the training rows here.
    """
    importer = DataImporter("", [f"layer{i}" for i in range(len(train))], **CLEANING)
    layers, others = {}, {}
    for name, rows, more in zip(importer.data_types, train, test, strict=True):
        there = np.isfinite(rows)
        means = np.where(there, rows, 0).sum(0) / np.maximum(1, there.sum(0))
        names = [f"{name}_{i}" for i in range(rows.shape[1])]
        layers[name] = pd.DataFrame(np.where(there, rows, means).T, names, annotation.index)
        samples = [f"t{i}" for i in range(len(more))]
        others[name] = pd.DataFrame(np.where(np.isfinite(more), more, means).T, names, samples)
    # It decides on columns here; the rows that it drops as well are taken up again.
    kept = {name: table.index for name, table in importer.cleanup_data(layers).items()}
    layers = importer.select_features({name: table.loc[kept[name]] for name, table in layers.items()})
    others = {name: others[name].loc[table.index] for name, table in layers.items()}
    layers, others = importer.normalize_data(layers), importer.normalize_data(others, fit=False)
    known = importer.get_torch_dataset(layers, annotation, list(annotation.index))
    tensors = {name: torch.from_numpy(table.to_numpy().T.copy()).float() for name, table in others.items()}
    new = MultiOmicDataset(tensors, {}, known.variable_types, known.features, samples, known.label_mappings)
    return known, new


def concatenated(dataset: MultiOmicDataset) -> MultiOmicDataset:
    """All layers as one: flexynesis' early fusion."""
    return MultiOmicDataset(
        {"all": torch.cat(list(dataset.dat.values()), dim=1)},
        dataset.ann,
        dataset.variable_types,
        {"all": [column for columns in dataset.features.values() for column in columns]},
        dataset.samples,
        dataset.label_mappings,
    )


def main() -> None:
    """Tune on the training rows, and write what the best model predicts of the test rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("given", help="arrays train, target, test, and widths: the number of columns of each modality")
    parser.add_argument("answer", help="file to write: arrays prediction, version, decided, models, loss, fit_seconds")
    parser.add_argument("--task", choices=["classification", "regression", "survival"], required=True)
    parser.add_argument("--time-limit", type=float, required=True)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="thread: time of its own on a core")
    parser.add_argument("--work", help="not needed")
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    seed_everything(options.seed, verbose=False)
    clock = CLOCKS[options.clock]
    began = clock()
    with np.load(options.given, allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["widths"])[:-1]
        train, test = (np.split(arrays[name], ends, axis=1) for name in ("train", "test"))
        target = arrays["target"].reshape(len(arrays["target"]), -1)
    mean, deviation = np.zeros(target.shape[1]), np.ones(target.shape[1])
    if options.task == "regression":
        # Its loss is the squared error in the units that it is given.
        mean, deviation = target.mean(0), np.where(target.std(0) > 0, target.std(0), 1.0)
    names = [TIME, EVENT] if options.task == "survival" else [f"y{i}" for i in range(target.shape[1])]
    annotation = pd.DataFrame((target - mean) / deviation, [f"s{i}" for i in range(len(target))], names, dtype=float)
    if options.task == "classification":
        annotation = annotation.astype("category")
    survival = {"surv_time_var": TIME, "surv_event_var": EVENT} if options.task == "survival" else {}
    tried = []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        known, new = prepared(train, test, annotation)
        parts = {"intermediate": (known, new)}
        if len(train) > 1:
            parts["early"] = (concatenated(known), concatenated(new))
        for number, (fusion, (rows, _)) in enumerate(parts.items()):
            now = clock()
            tuning = Tuning(
                clock,
                now + (began + options.time_limit - now) / (len(parts) - number),
                dataset=rows,
                target_variables=[] if survival else list(names),
                device_type="cpu",
                **survival,
                **TRAINING,
            )
            with contextlib.suppress(TimeUp):
                tuning.perform_tuning()
            tried.append((tuning.best, fusion, tuning))
        loss, fusion, tuning = min(tried, key=lambda one: one[0])
        seconds = clock() - began
        outputs = tuning.model.predict(parts[fusion][1])
    if options.task == "classification":
        codes = outputs[names[0]].argmax(1)
        prediction = np.array([known.label_mappings[names[0]][int(code)] for code in codes])
    elif options.task == "survival":
        prediction = outputs[EVENT].reshape(-1)
    else:
        prediction = np.column_stack([outputs[name].reshape(-1) for name in names]) * deviation + mean
    models = sum(one.iterations for _, _, one in tried)
    decided = f"DirectPred, {fusion} fusion, of {', '.join(f'{one.iterations} {name}' for _, name, one in tried)}"
    about = {"version": __version__, "decided": decided, "models": models, "loss": loss, "fit_seconds": seconds}
    np.savez(options.answer, prediction=prediction, **about)
    print(decided)


if __name__ == "__main__":
    main()
