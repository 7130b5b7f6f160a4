"""Explain a finished run: what modalities contributed, and what its stages know of the target."""

from __future__ import annotations

import warnings

import numpy as np

from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning, InputError
from equifuse.explain import Explanation, InformationFlow, explain, information_flow
from equifuse.runs.folder import PathLike, load_run


def explain_run(run: PathLike, samples: int = 2000) -> Explanation:
    """Contributions of the modalities on the run's test part, by :func:`equifuse.explain.explain`.

    >>> from equifuse.runs import TrainConfig, train
    >>> from equifuse.runs.explain import explain_run
    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> explain_run(run, 50).modalities[0]
    'pixels'

    Args:
        run: the run folder.
        samples: test samples, at most.

    Raises:
        DataError: no finished run there, or its data have changed.
        InputError: a task whose outputs stand not alone.
    """
    opened = load_run(run)
    several = not opened.task.predicts_largest and (opened.model.n_outputs or 1) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        test = batches_of(opened.dataset().splits["test"])
        return explain(opened.model, opened.task, test, samples=samples, output=0 if several else None)


def flow_of_run(run: PathLike, samples: int = 2000) -> InformationFlow:
    """Bits about the target at every stage of a run's model, on samples that it was not trained on.

    >>> from equifuse.runs import TrainConfig, train
    >>> from equifuse.runs.explain import flow_of_run
    >>> run = train(TrainConfig("digits", fusion="gmf", epochs=1), "run", progress=False).path
    >>> flow = flow_of_run(run, 60)
    >>> flow.n, flow.stages[-1].name
    (60, 'fused')

    The validation and the test part together: it describes, and chooses nothing.

    Args:
        run: the run folder.
        samples: at most; of more, so many are drawn.

    Raises:
        DataError: no finished run there, or its data have changed.
        InputError: fewer than 20 samples, or a task without a target in bits.
    """
    opened = load_run(run)
    splits = opened.dataset().splits
    if splits["test"].target is None:
        raise InputError("information is about a target: these samples have no labels")
    held_out = splits["val"].labelled().joined(splits["test"].labelled())
    if len(held_out) > samples:
        held_out = held_out.select(np.sort(np.random.default_rng(0).permutation(len(held_out))[:samples]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return information_flow(opened.model, opened.task, batches_of(held_out))
