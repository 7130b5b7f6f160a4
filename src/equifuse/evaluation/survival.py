"""How well risks order times to an event, and what that means: curves by risk, hazard ratios, scores over time."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.records import Record

Floats = NDArray[np.float64]
LOW, HIGH = "low risk", "high risk"
# Times at which scores are taken: quantiles of the events' times.
_QUANTILES = np.linspace(0.1, 0.9, 9)
_STEPS = 50
# Standard errors on either side of an interval of 95 %.
_REACH = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Ratio(Record):
    """A hazard ratio with its interval of 95 % (Wald).

    >>> Ratio(2.0, 1.1, 3.6).value
    2.0
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve(Record):
    """A Kaplan-Meier curve: the share without the event after each time, with its interval of 95 %.

    Attributes:
        n: samples.
        events: that were seen.
        time: at which the share changes, or samples leave.
        share: after that time.
        low: end of its interval.
        high: likewise.
    """

    n: int
    events: int
    time: list[float]
    share: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, eq=False)
class SurvivalScores(Record):
    """What risks mean for the time to an event.

    Attributes:
        cut: risk that parts high from low, the median of the training part.
        curves: of the samples of low and of high risk.
        log_rank: p-value of the log-rank test that both curves are the same; None where one group is empty.
        hazard_ratio: of high risk to low.
        hazard_ratio_per_deviation: of a risk that is one standard deviation of the training part's higher.
        times: at which the next are taken: deciles of the events' times.
        auc: cumulative/dynamic AUC at each, weighted for censoring: who has had the event against who has not.
        mean_auc: their mean over time.
        brier: integrated Brier score of the predicted survival, 0 at best.
        brier_reference: the same of the training part's Kaplan-Meier curve, which knows no features.
        undefined: what has no value, and why.
    """

    cut: float
    curves: dict[str, Curve]
    log_rank: float | None = None
    hazard_ratio: Ratio | None = None
    hazard_ratio_per_deviation: Ratio | None = None
    times: list[float] = field(default_factory=list)
    auc: list[float] = field(default_factory=list)
    mean_auc: float | None = None
    brier: float | None = None
    brier_reference: float | None = None
    undefined: dict[str, str] = field(default_factory=dict)


def survival_scores(
    train: tuple[Floats, Floats, NDArray[np.bool_]], test: tuple[Floats, Floats, NDArray[np.bool_]]
) -> SurvivalScores:
    """Scores of log-risks; nothing is chosen on the samples that are measured. Needs scikit-survival.

    Args:
        train: log-risks, times and events ``(n,)`` of the training part, for the cut, the baseline hazard and the
            censoring.
        test: of the samples to measure.

    Raises:
        InputError: scikit-survival is not installed.
    """
    nonparametric = require("survival", "sksurv.nonparametric", "survival curves")
    compare = require("survival", "sksurv.compare", "survival curves")
    risk, time, event = test
    cut = float(np.median(train[0]))
    high = risk > cut
    curves = {
        name: _curve(nonparametric, time[rows], event[rows])
        for name, rows in ((LOW, ~high), (HIGH, high))
        if rows.any()
    }
    undefined: dict[str, str] = {}
    log_rank, ratio, per_deviation = None, None, None
    if len(curves) < 2:
        undefined["log_rank"] = f"all samples are of {next(iter(curves))}"
    elif not event.any():
        undefined["log_rank"] = "nobody has the event"
    else:
        log_rank = float(compare.compare_survival(_structured(event, time), high)[1])
        ratio = hazard_ratio(high.astype(np.float64), time, event)
        if ratio is None:
            undefined["hazard_ratio"] = "one of the groups has no event while the other is at risk"
    spread = float(train[0].std())
    if spread > 0 and event.any():
        per_deviation = hazard_ratio(risk / spread, time, event)
    try:
        over_time = _over_time(train, test)
    except ValueError as error:
        over_time, undefined["auc"] = {}, " ".join(str(error).split())
    return SurvivalScores(cut, curves, log_rank, ratio, per_deviation, **over_time, undefined=undefined)


def _curve(nonparametric: Any, time: Floats, event: NDArray[np.bool_]) -> Curve:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        at, share, ends = nonparametric.kaplan_meier_estimator(event, time, conf_type="log-log")
    ends = np.where(np.isfinite(ends), ends, share)
    return Curve(len(time), int(event.sum()), at.tolist(), share.tolist(), ends[0].tolist(), ends[1].tolist())


def hazard_ratio(x: Floats, time: Floats, event: NDArray[np.bool_]) -> Ratio | None:
    """``exp(β)`` of Cox's model of one covariate, by Newton's method; None where the likelihood has no maximum.

    Example:
        >>> import numpy as np
        >>> from equifuse.evaluation.survival import hazard_ratio
        >>> time, event = np.arange(1.0, 9.0), np.ones(8, bool)
        >>> hazard_ratio(np.array([1.0, 0, 1, 1, 0, 1, 0, 0]), time, event).value > 1  # those with 1 have it sooner
        True

    Args:
        x: the covariate ``(n,)``.
        time: of the event or of the last time it had not been seen.
        event: whether it was seen.
    """
    x = x - x.mean()
    order = np.argsort(-time, kind="stable")
    x, time, event = x[order], time[order], event[order]
    # The last sample, in this order, of those that are at risk at each time: equal times are at risk together.
    last = np.searchsorted(-time, -time, side="right") - 1
    beta = 0.0
    for _ in range(100):
        weight = np.exp(beta * x)
        s0, s1, s2 = (np.cumsum(weight * x**k)[last][event] for k in range(3))
        gradient = float((x[event] - s1 / s0).sum())
        information = float((s2 / s0 - (s1 / s0) ** 2).sum())
        if information <= 1e-10 or abs(beta) * np.ptp(x) > 30:
            return None
        step = float(np.clip(gradient / information, -1, 1))
        beta += step
        if abs(step) < 1e-9:
            error = 1 / math.sqrt(information)
            return Ratio(math.exp(beta), math.exp(beta - _REACH * error), math.exp(beta + _REACH * error))
    return None


def _over_time(
    train: tuple[Floats, Floats, NDArray[np.bool_]], test: tuple[Floats, Floats, NDArray[np.bool_]]
) -> dict[str, Any]:
    """AUC and Brier scores at times that both parts know of."""
    metrics = require("survival", "sksurv.metrics", "survival curves")
    breslow = require("survival", "sksurv.linear_model.coxph", "survival curves").BreslowEstimator
    nonparametric = require("survival", "sksurv.nonparametric", "survival curves")
    known, known_time, known_event = train
    risk, time, event = test
    # Beyond the training part's last time nothing is known of censoring: there everyone counts as not seen any more.
    end = known_time.max()
    event, time = event & (time < end), np.minimum(time, np.nextafter(end, 0))
    seen = time[event]
    if len(seen) < 2:
        raise ValueError("fewer than two events within the training part's times")
    times = np.unique(np.quantile(seen, _QUANTILES))
    times = times[(times > time.min()) & (times < time.max())]
    if len(times) < 2:
        raise ValueError("the events are too close together")
    own, other = _structured(known_event, known_time), _structured(event, time)
    auc, mean = metrics.cumulative_dynamic_auc(own, other, risk, times)
    grid = np.linspace(times[0], times[-1], _STEPS)
    baseline = breslow().fit(known, known_event, known_time)
    predicted = np.stack([curve(np.clip(grid, *curve.domain)) for curve in baseline.get_survival_function(risk)])
    at, share = nonparametric.kaplan_meier_estimator(known_event, known_time)
    flat = np.concatenate([[1.0], share])[np.searchsorted(at, grid, side="right")]
    return {
        "times": times.tolist(),
        "auc": np.asarray(auc, dtype=float).tolist(),
        "mean_auc": float(mean),
        "brier": float(metrics.integrated_brier_score(own, other, predicted, grid)),
        "brier_reference": float(metrics.integrated_brier_score(own, other, np.tile(flat, (len(risk), 1)), grid)),
    }


def _structured(event: NDArray[np.bool_], time: Floats) -> NDArray[Any]:
    found = np.empty(len(time), dtype=[("event", bool), ("time", float)])
    found["event"], found["time"] = event, time
    return found


def columns_of(risk: Any, target: Any) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Log-risks, times and events from raw outputs ``(n, 1)`` and targets ``(n, 2)``.

    Raises:
        InputError: they do not fit.
    """
    risk, target = np.asarray(risk, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if risk.ndim != 2 or risk.shape[1] != 1 or target.shape != (len(risk), 2):
        raise InputError(f"survival needs one output and two targets per sample, got {risk.shape} and {target.shape}")
    return risk[:, 0], target[:, 0], target[:, 1] > 0
