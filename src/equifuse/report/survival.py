"""Survival curves of those with a higher and a lower predicted risk."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
# Standard errors on either side of an interval of 95 %.
_REACH = 1.959963984540054


def halves(risk: Tensor, target: Tensor) -> tuple[dict[str, dict[str, Any]], float | None]:
    """Kaplan-Meier curves of the samples above and up to the median risk, and the log-rank test's p.

    Example:
        >>> import torch
        >>> from equifuse.report.survival import halves
        >>> risk = torch.tensor([[2.0], [1.5], [-1.0], [-2.0]])
        >>> target = torch.tensor([[1.0, 1], [2.0, 1], [3.0, 1], [4.0, 0]])
        >>> curves, p = halves(risk, target)
        >>> curves["higher risk"]["share"], curves["lower risk"]["events"], round(p, 2)
        ([0.5, 0.0], 1, 0.09)

    Args:
        risk: ``(n, 1)``.
        target: time, and 1 where the event was seen, ``(n, 2)``.
    """
    r, y = risk[:, 0].double().numpy(), target.double().numpy()
    high = r > np.median(r)
    named = {"lower risk": ~high, "higher risk": high}
    curves = {name: _kaplan_meier(y[rows, 0], y[rows, 1] > 0) for name, rows in named.items() if rows.any()}
    return curves, _log_rank(high, y[:, 0], y[:, 1] > 0)


def _kaplan_meier(time: Floats, event: NDArray[np.bool_]) -> dict[str, Any]:
    """The product-limit estimate, with Greenwood's error on the log-log scale."""
    times = np.unique(time)
    at_risk = np.array([(time >= t).sum() for t in times])
    events = np.array([(event & (time == t)).sum() for t in times])
    share = np.cumprod(1 - events / at_risk)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        variance = np.cumsum(events / (at_risk * (at_risk - events))) / np.log(share) ** 2
        reach = _REACH * np.sqrt(variance)
        low, high = (share ** np.exp(s * reach) for s in (1, -1))
    ends = [np.where(np.isfinite(end), end, share) for end in (low, high)]
    return {
        "n": len(time),
        "events": int(event.sum()),
        "time": times.tolist(),
        "share": share.tolist(),
        "low": ends[0].tolist(),
        "high": ends[1].tolist(),
    }


def _log_rank(high: NDArray[np.bool_], time: Floats, event: NDArray[np.bool_]) -> float | None:
    """p-value of the test that both groups have the event alike; None where nothing can be compared."""
    from scipy.stats import chi2  # noqa: PLC0415

    observed = expected = variance = 0.0
    for t in np.unique(time[event]):
        here = time >= t
        n, n1, d = here.sum(), (here & high).sum(), (event & (time == t)).sum()
        observed += (event & (time == t) & high).sum()
        expected += d * n1 / n
        if n > 1:
            variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    return float(chi2.sf((observed - expected) ** 2 / variance, 1)) if variance > 0 else None
