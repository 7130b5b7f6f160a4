"""The verdict on a run: what was predicted, from what, how well, and against what."""

from __future__ import annotations

from collections.abc import Sequence

from equifuse.data.options import SourceOptions
from equifuse.report.findings import Findings, Rival
from equifuse.tasks import Task

_NAMED = 6


def verdict(found: Findings) -> list[str]:
    """One sentence that says it all, and what to make of it.

    Args:
        found: of the run.
    """
    said = [_sentence(found)]
    linear = next((rival for rival in found.rivals if rival.name == "linear model"), None)
    if linear is not None and linear.better is not None and found.value is not None and linear.value is not None:
        said.append(_against(found.task, found.value, linear))
    elif found.without_linear:
        said.append(f"Not compared with a linear model: {found.without_linear}.")
    trivial = next((rival for rival in found.rivals if rival.name == found.task.without_features), None)
    if trivial is not None and trivial.better is not None and trivial.better[0] <= 0:
        said.append(f"It is not shown to be better than {trivial.name}, which needs no features at all.")
    return said


def _sentence(found: Findings) -> str:
    run, task = found.run, found.task
    name = run.method
    count = run.config.members if run.config.ensemble else None
    model = f"{count} models ({name})" if count else f"The model ({name})"
    what = f"{model} predict{'' if count else 's'} {_target(found)} from {_modalities(run.model.modalities)}"
    n = f"{len(found.samples):,} test sample{'' if len(found.samples) == 1 else 's'}"
    if found.value is None:
        why = found.evaluation.undefined.get(task.headline, "it has no value here")
        return f"{what}; on {n} its {metric_name(task.headline)} is undefined: {why}."
    spread = "" if found.interval is None else f" (95 % interval {shown(task, *found.interval)})"
    score = f"{metric_name(task.headline)} {shown(task, found.value)}{spread} on {n}"
    rivals = [f"{shown(task, rival.value)} for {_article(rival)}" for rival in found.rivals if rival.value is not None]
    against = f", against {' and '.join(rivals)}" if rivals else ""
    return f"{what}: {score}{against}."


def _article(rival: Rival) -> str:
    return f"a {rival.name} of the same columns" if rival.name == "linear model" else rival.name


def _target(found: Findings) -> str:
    names = SourceOptions.of(found.run.config.source).target or ()
    name = " and ".join(names[:_NAMED]) or f"the targets of {found.run.record['data']['name']}"
    classes = found.run.model.classes
    if found.confusion is not None and classes is not None:
        return f"{name} ({len(classes)} classes)" if len(classes) > 3 else f"{name} ({' or '.join(classes)})"
    return name


def _modalities(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    first = list(names[: _NAMED - 1] if len(names) > _NAMED else names[:-1])
    last = f"{len(names) - len(first)} more modalities" if len(names) > _NAMED else names[-1]
    return f"{', '.join(first)} and {last}"


def _against(task: Task, value: float, linear: Rival) -> str:
    assert linear.better is not None
    assert linear.value is not None
    sign = 1.0 if task.metric(task.headline).mode == "max" else -1.0
    low, high = linear.better
    gain = sign * (value - linear.value)
    ends = f"95 % interval of the difference {signed(task, low)} to {signed(task, high)}"
    if low > 0:
        return f"It is better than the linear model by {difference(task, gain)} ({ends})."
    if high < 0:
        return f"The linear model is better by {difference(task, -gain)} ({ends}): take that."
    return f"It cannot be told apart from the linear model ({ends}); the simpler one is as good a choice."


def metric_name(name: str) -> str:
    """A metric as a sentence says it: ``f1_macro`` is "macro-F1"."""
    bare, _, of = name.partition(" ")
    known = {"f1_macro": "macro-F1", "f1_weighted": "weighted F1", "f1_micro": "micro-F1", "f1_samples": "F1 by sample"}
    known |= {"mae": "mean absolute error", "rmse": "RMSE", "r2": "R²", "auc": "AUC", "c_index": "concordance index"}
    known |= {"map": "mean average precision", "log_loss": "log loss"}
    return known.get(bare, bare) + (f" of {of}" if of else "")


def percent(task: Task) -> bool:
    """Whether the headline metric is shown in per cent."""
    return task.metric(task.headline).format == "percent"


def shown(task: Task, *values: float) -> str:
    """The headline metric, or the ends of its interval, as text."""
    if percent(task):
        return f"{' to '.join(f'{100 * value:.1f}' for value in values)} %"
    return " to ".join(f"{value:.3f}" if abs(value) < 10 else f"{value:#.4g}" for value in values)


def difference(task: Task, value: float) -> str:
    """A difference of the headline metric, as text."""
    return f"{100 * value:.1f} points" if percent(task) else f"{value:.3g}"


def signed(task: Task, value: float) -> str:
    """A difference with its sign, in points where the metric is in per cent."""
    text = f"{100 * value:+.1f}" if percent(task) else f"{value:+.3g}"
    return text.replace("-", "−")
