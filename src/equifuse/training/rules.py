"""What options are where they are left to the data: small rules, the same for every data set. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from equifuse.errors import UnknownNameError
from equifuse.options import AUTO
from equifuse.training.options import TrainingOptions

# The share of its modalities that a training sample lacks at least: it cost nothing where nothing was missing
# on test, and was worth up to two points where half was.
HIDDEN = 0.3
Some = TypeVar("Some", bound=TrainingOptions)


@dataclass(frozen=True)
class Facts:
    """What the rules look at: a training part, not what a model makes of it.

    Args:
        rows: samples of the training part.
        missing: modality -> share of them that lack it.
        hides: whether a sample means as much to the task with fewer modalities, so that some can be hidden.
    """

    rows: int
    missing: Mapping[str, float] = field(default_factory=dict)
    hides: bool = True


def resolved(options: Some, facts: Facts) -> Some:
    """Options with a value in the place of every ``"auto"``; what was given stays.

    >>> from equifuse.training.options import TrainingOptions
    >>> from equifuse.training.rules import Facts, resolved
    >>> resolved(TrainingOptions(), Facts(1000, {"text": 0.0, "image": 0.1})).modality_dropout
    {'text': 0.3, 'image': 0.222}

    Args:
        options: of a training, or of a run.
        facts: about its training part.

    Raises:
        UnknownNameError: ``expect_missing`` names a modality that there is not.
    """
    for name in options.expect_missing:
        if name not in facts.missing:
            raise UnknownNameError("modality", name, facts.missing)
    if options.fits_at_once:  # it has no use for them
        return options
    found: dict[str, Any] = {}
    if options.modality_dropout == AUTO:
        found["modality_dropout"] = hidden(facts, options.expect_missing)
    return replace(options, **found) if found else options


def hidden(facts: Facts, expected: Mapping[str, float] | None = None) -> float | dict[str, float]:
    """How often each modality that a training sample has is hidden from it.

    A sample shall lack each modality with the largest of three chances: 30 %, the share of the data that lack it, and
    the share that will when the model is used. Hidden is what the data do not lack already. Nothing is hidden of a
    single modality, nor where the task compares modalities, as retrieval does.

    >>> from equifuse.training.rules import Facts, hidden
    >>> hidden(Facts(100, {"a": 0.0, "b": 0.5}), {"a": 0.6})
    {'a': 0.6, 'b': 0.0}

    Args:
        facts: about the training part.
        expected: modality -> share of samples that will lack it.
    """
    if not facts.hides or len(facts.missing) < 2:
        return 0.0
    found = {}
    for m, lacking in facts.missing.items():
        wanted = max(HIDDEN, lacking, (expected or {}).get(m, 0.0))
        found[m] = round((wanted - lacking) / (1 - lacking), 3) if lacking < 1 else 0.0
    return found
