"""A search in sentences: what won, whether the difference is more than chance, what each modality adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from equifuse.auto.judging import Judge

# The methods that anybody would try first.
SIMPLE = ("linear", "trees", "late")


def composition(names: Sequence[str], weights: Sequence[float]) -> str:
    """The members of an ensemble, the largest share first.

    >>> from equifuse.auto.verdict import composition
    >>> composition(["late", "deq", "linear"], [0.25, 0.75, 0.0])
    'deq 75 %, late 25 %'
    """
    pairs = sorted(((w, name) for name, w in zip(names, weights, strict=True) if w > 0), key=lambda pair: -pair[0])
    return ", ".join(f"{name} {100 * w:.0f} %" for w, name in pairs)


def _gain(one: str, other: str, found: tuple[float, float, float] | None, metric: str) -> str:
    """Whether one is ahead of another, in words.


    Args:
        one: the better one.
        other: the other one.
        found: of :meth:`equifuse.auto.judging.Judge.difference`.
        metric: by which they are compared.
    """
    if found is None:
        return f"{one} may be ahead of {other} by chance: it cannot be said on so few rows."
    gain, low, high = found
    verdict = "more than chance" if low > 0 else "no more than chance"
    ahead = "ahead of" if gain >= 0 else "behind"
    return (
        f"{one} is {ahead} {other} by {abs(gain):.2g} in {metric} (95 % interval {low:.2g} to {high:.2g}): {verdict}."
    )


def report(
    judge: Judge,
    outputs: Mapping[str, Tensor],
    weights: Mapping[str, float],
    ensemble: Tensor,
    rows: int,
    without: Mapping[str, Tensor] | None = None,
) -> list[str]:
    """The sentences of a search.

    Args:
        judge: of the rows.
        outputs: complete candidate -> what its models said of rows that they were not trained on, the best first.
        weights: candidate -> its share of the ensemble.
        ensemble: outputs of the ensemble for the same rows.
        rows: number of them.
        without: modality -> outputs of the best candidate without it; {} where it was not measured.
    """
    metric = judge.task.monitor
    best, *others = outputs
    used = [name for name, weight in weights.items() if weight > 0]
    cost = judge.sign * judge.cost(ensemble)
    measured = f"{metric} {cost:.4f} on {rows:,} rows that its models were not trained on"
    if len(used) > 1:
        made = composition(list(weights), list(weights.values()))
        said = [
            f"The ensemble of {len(used)} methods ({made}) has {metric} {cost:.4f} on {rows:,} rows that its models "
            "were not trained on; its weights were chosen on them, so that a little of its gain is not real.",
            _gain(
                "The ensemble", f"{best}, the best single method,", judge.difference(ensemble, outputs[best]), metric
            ),
        ]
    else:
        said = [f"The best is {best}, with {measured}; no other method adds anything to it."]
    if others:
        found = judge.difference(outputs[best], outputs[others[0]])
        said.append(_gain(f"The best single method, {best},", f"{others[0]}, the next,", found, metric))
    said += _simpler(judge, outputs, ensemble, metric, len(used) == 1)
    said += [
        _of_modality(m, best, judge.difference(outputs[best], less), metric) for m, less in (without or {}).items()
    ]
    return said


def _simpler(judge: Judge, outputs: Mapping[str, Tensor], ensemble: Tensor, metric: str, alone: bool) -> list[str]:
    """Whether a simple method would do: the first that is not behind the ensemble by more than chance."""
    simple = [name for name in SIMPLE if name in outputs]
    if not simple or (alone and next(iter(outputs)) in simple):
        return []
    for name in simple:
        found = judge.difference(ensemble, outputs[name])
        if found is not None and found[1] <= 0:
            return [f"A simpler model would do: {name} is behind by {max(found[0], 0):.2g} in {metric}, within chance."]
    nearest = min(simple, key=lambda name: judge.cost(outputs[name]))
    found = judge.difference(ensemble, outputs[nearest])
    if found is None:
        return []
    return [f"A simpler model would not do: the nearest, {nearest}, is behind by {found[0]:.2g} in {metric}."]


def _of_modality(m: str, method: str, found: tuple[float, float, float] | None, metric: str) -> str:
    if found is None:
        return f"What {m} adds to {method} cannot be said on so few rows."
    gain, low, high = found
    interval = f"(95 % interval {low:.2g} to {high:.2g})"
    if low > 0:
        return f"Modality {m} adds: without it {method} is worse by {gain:.2g} in {metric} {interval}."
    if high < 0:
        return f"Modality {m} harms: without it {method} is better by {-gain:.2g} in {metric} {interval}."
    change = f"{'worse' if gain >= 0 else 'better'} by {abs(gain):.2g}"
    return f"Modality {m} adds nothing beyond chance: without it {method} is {change} in {metric} {interval}."
