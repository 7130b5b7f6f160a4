"""A modality's steps, one after the other: written as ``log1p,variance:2000``, completed, fitted, stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from equifuse.encoders.preparation.base import Kind, Preparation, Sample
from equifuse.encoders.preparation.batches import ByBatch
from equifuse.encoders.preparation.categories import Embed, OneHot
from equifuse.encoders.preparation.gaps import Missing
from equifuse.encoders.preparation.standardize import Standardize, moments
from equifuse.encoders.preparation.transforms import Asinh
from equifuse.errors import DataError, InputError
from equifuse.registry import PREPARATIONS


def parse_steps(text: str) -> list[Preparation]:
    """The steps that a specification names, not fitted yet.

    >>> [step.spec for step in ef.encoders.parse_steps("log1p, variance:2000")]
    ['log1p', 'variance:2000']

    Args:
        text: steps separated by ``,``, each a name and perhaps numbers or words after ``:``.

    Raises:
        UnknownNameError: an unknown step or word.
        InputError: a number that does not fit.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InputError(f"prepare expects steps such as 'log1p,variance:2000', got {text!r}")
    return [_step(word) for word in words]


def _step(word: str) -> Preparation:
    name, *arguments = word.split(":")
    kind = PREPARATIONS.get(name)
    try:
        step = kind.of_words(*(_value(argument) for argument in arguments))
    except TypeError:
        raise InputError(f"the step {word!r} is written {kind.usage or kind.name}") from None
    step.spec = word
    return step


def _value(word: str) -> Any:
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            pass
    return word


def complete_steps(
    steps: Sequence[Preparation], kinds: Sequence[Kind] = (), feature_missing: float | None = None
) -> list[Preparation]:
    """The steps with those that go without saying, so that a network gets finite numbers of one size.

    - ``missing:SHARE`` first, for ``feature_missing``;
    - ``onehot`` after the last ``missing`` or ``batch``, where there are categories;
    - ``impute:median`` before the first step that needs all cells, at the latest before the last step;
    - ``standardise`` at the end.

    >>> [step.spec for step in ef.encoders.complete_steps(ef.encoders.parse_steps("log1p,pca:8"))]
    ['log1p', 'impute:median', 'pca:8', 'standardise']

    Args:
        steps: those asked for.
        kinds: of the modality's columns.
        feature_missing: share of the training rows beyond which an empty feature is dropped, or None.

    Raises:
        InputError: an order that cannot work.
    """
    found = list(steps)
    if feature_missing is not None:
        found.insert(0, _step(f"missing:{feature_missing:g}"))
    if "category" in kinds and not any(isinstance(step, OneHot) for step in found):
        places = [i + 1 for i, step in enumerate(found) if isinstance(step, ByBatch | Missing)]
        found.insert(max(places, default=0), _step("onehot"))
    if "category" in kinds:
        place = next(i for i, step in enumerate(found) if isinstance(step, OneHot))
        for before in found[:place]:
            if not before.early:
                after = next((step for step in found if isinstance(step, ByBatch)), found[place])
                raise InputError(f"put {after.spec} before {before.spec}: codes of categories are no quantities")
    first = next((i for i, step in enumerate(found) if step.complete), len(found))
    filling = [i for i, step in enumerate(found) if step.fills]
    if not filling or filling[0] > first:
        if filling:
            raise InputError(f"put {found[filling[0]].spec} before {found[first].spec}, which needs all cells")
        last = len(found) - (bool(found) and isinstance(found[-1], Standardize))
        found.insert(min(first, last), _step("impute:median"))
    if not isinstance(found[-1], Standardize):
        found.append(_step("standardise"))
    return found


def unasked_steps(sample: Sample) -> list[Preparation]:
    """The steps of a modality for which none are asked for: ``asinh``, if a feature is skewed.

    >>> from equifuse.encoders.preparation import Sample, unasked_steps
    >>> [step.spec for step in unasked_steps(Sample(torch.randn(100, 3).mul(2).exp()))]
    ['asinh']

    Args:
        sample: the training rows of the modality.
    """
    step = Asinh()
    return [step] if len(sample.x) and step.finds(sample) else []


def fit_steps(steps: Iterable[Preparation], sample: Sample) -> Sample:
    """Fit steps on the training part, each on what those before it make of the rows; return what the last one makes.

    The first step also keeps mean and deviation of the raw features, and the last one that fills gaps or opens
    categories the mean of what it makes: explanations start from there.

    >>> from equifuse.encoders.preparation import Sample
    >>> steps = ef.encoders.parse_steps("impute:mean,variance:1")
    >>> rows = ef.encoders.fit_steps(steps, Sample(torch.tensor([[1.0, 0.0], [3.0, float("nan")]])))
    >>> rows.x.tolist()
    [[1.0], [3.0]]

    Raises:
        DataError: there are no rows.
        InputError: a step cannot be fitted on them.
    """
    if not len(sample.x):
        raise DataError("no row of the training part has the modality: there is nothing to fit its preparation on")
    steps = list(steps)
    front = front_of(steps)
    for i, step in enumerate(steps):
        step.learn(sample)
        after = step.follow(sample)
        if not after.width:
            raise InputError(f"{step.spec} leaves no feature")
        if i == 0:
            mean, deviation = moments(sample.x, sample.weight)
            step.keep(raw_mean=mean, raw_deviation=deviation)
        if i == front - 1:
            step.keep(front_mean=moments(after.x, after.weight)[0])
        sample = after
    return sample


def restore_steps(stored: Iterable[Mapping[str, Any]]) -> list[Preparation]:
    """The steps of a stored model, with empty arrays of the right shapes.

    Raises:
        DataError: a damaged description.
    """
    steps = []
    for described in stored:
        step = _step(str(described["step"]))
        steps.append(step.restore(int(described["width"]), described["arrays"]))
    return steps


def layers_before(encoder: nn.Module) -> list[nn.Module]:
    """The layers before an encoder, in order: its steps, and what flattens the features for them.

    None for an encoder of one's own.
    """
    parts = list(encoder.children())[:-1] if isinstance(encoder, nn.Sequential) else []
    found: list[nn.Module] = []
    for part in parts:
        if not isinstance(part, Preparation | nn.Flatten):
            break
        found.append(part)
    return found


def fixed_layers(encoder: nn.Module) -> list[nn.Module]:
    """The layers before an encoder that make the same of the same row in every epoch: all up to one that learns."""
    return list(takewhile(lambda layer: next(layer.parameters(), None) is None, layers_before(encoder)))


def steps_of(encoder: nn.Module) -> list[Preparation]:
    """The steps before an encoder, in order; none for an encoder of one's own."""
    return [layer for layer in layers_before(encoder) if isinstance(layer, Preparation)]


def raw_moments(encoder: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of the raw features in the training part, as an encoder's preparation knows them; or None."""
    steps = steps_of(encoder)
    if not steps:
        found = next((part for part in encoder.modules() if isinstance(part, Standardize)), None)
        return None if found is None else (found.mean, found.scale)
    arrays = dict(steps[0].named_buffers())
    if "raw_mean" in arrays:
        return arrays["raw_mean"], arrays["raw_deviation"]
    return (steps[0].mean, steps[0].scale) if isinstance(steps[0], Standardize) else None


def front_of(steps: Sequence[Preparation]) -> int:
    """How many steps it takes until there are no codes and no empty cells: what comes after can be differentiated."""
    filled = next((i + 1 for i, step in enumerate(steps) if step.fills), 0)
    return max([filled, *(i + 1 for i, step in enumerate(steps) if isinstance(step, OneHot))])


def front_mean(steps: Sequence[Preparation]) -> Tensor:
    """The mean over the training part of what the front of a preparation makes, its learnt vectors as they are now."""
    found = dict(steps[-1].named_buffers())["front_mean"].clone()
    for step in steps:
        if isinstance(step, Embed):
            first = len(step.numbers)
            found[first : first + len(step.mean)] = step.mean.to(found)
    return found


def fills_gaps(encoder: nn.Module) -> bool:
    """Whether an encoder may get empty cells (NaN) in rows that have the modality."""
    return any(step.fills for step in steps_of(encoder))
