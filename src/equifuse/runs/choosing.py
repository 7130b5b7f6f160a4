"""The choice among a few configurations by validation, made anew in every fold: nested tuning."""

from __future__ import annotations

import math
from dataclasses import replace

from equifuse.errors import InputError
from equifuse.runs.config import TrainConfig
from equifuse.runs.folder import load_data
from equifuse.runs.prepare import prepare
from equifuse.training.trainer import Trainer


def chosen_by_validation(config: TrainConfig) -> TrainConfig:
    """The candidate of a configuration whose best epoch is the best on the validation part; nothing else is looked at.

    >>> config = TrainConfig("digits", choose={"fusion": ["concat", "mean"]}, cv=2, fold=0, epochs=1)
    >>> chosen_by_validation(config).fusion in ("concat", "mean")
    True

    Of equal candidates the first is taken; one whose training fails, such as by a learning rate that is too high, is
    none.

    Args:
        config: of a fold, with what there is to choose from.

    Raises:
        InputError: every candidate failed.
    """
    candidates = config.candidates()
    dataset = load_data(candidates[0])
    best: tuple[float, TrainConfig] | None = None
    failure: InputError | None = None
    for candidate in candidates:
        quiet = replace(candidate, logger=(), logger_options={})
        try:
            prepared = prepare(quiet, dataset)
            trainer = Trainer(quiet, watch=False)
            value = trainer.fit(prepared.model, dataset, task=prepared.task, balancer=prepared.balancer).best_value
        except InputError as error:
            failure = error
            continue
        sign = 1.0 if prepared.task.mode == "min" else -1.0
        cost = math.inf if value is None else sign * value
        if best is None or cost < best[0]:
            best = cost, candidate
    if best is None:
        assert failure is not None
        raise failure
    return best[1]
