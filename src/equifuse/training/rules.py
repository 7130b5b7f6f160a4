"""What options are where they are left to the data: small rules, the same for every data set. Imports no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from equifuse.errors import UnknownNameError
from equifuse.options import AUTO
from equifuse.training.options import TrainingOptions

# The share of its modalities that a training sample lacks at least: it cost nothing where nothing was missing
# on test, and was worth up to two points where half was.
HIDDEN = 0.3
# A rule for sizes: about so many steps in an epoch, and in all; what epochs without improvement are of them.
_STEPS_OF_EPOCH, _STEPS, _PATIENCE = 32, 3000, 1 / 6
# Between which numbers sizes stay.
_BATCH, _WIDTH, _EPOCHS, _WAIT = (16, 256), (32, 256), (30, 300), (5, 30)
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
    for name, rule in _RULES.items():
        if getattr(options, name, None) == AUTO:  # those of a run are more than those of a training
            options = replace(options, **{name: rule(facts, options)})
    return options


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
        found[m] = round(still_to_hide(wanted, lacking), 3)
    return found


def batch_size(facts: Facts) -> int:
    """The power of two with which an epoch has about 32 steps; from 16 to 256.

    >>> from equifuse.training.rules import Facts, batch_size
    >>> [batch_size(Facts(rows)) for rows in (100, 1000, 100_000)]
    [16, 32, 256]
    """
    return _power(facts.rows / _STEPS_OF_EPOCH, *_BATCH)


def width(facts: Facts) -> int:
    """The power of two next to four times the root of the number of rows; from 32 to 256.

    >>> from equifuse.training.rules import Facts, width
    >>> [width(Facts(rows)) for rows in (50, 1000, 100_000)]
    [32, 128, 256]
    """
    return _power(4 * math.sqrt(facts.rows), *_WIDTH)


def epochs(facts: Facts, batch: int) -> int:
    """As many as have 3000 steps; from 30 to 300.

    >>> from equifuse.training.rules import Facts, epochs
    >>> epochs(Facts(1000), batch=32)
    94
    """
    return _between(round(_STEPS / math.ceil(max(facts.rows, 1) / batch)), *_EPOCHS)


def patience(most: int) -> int:
    """A sixth of the epochs; from 5 to 30.

    >>> from equifuse.training.rules import patience
    >>> patience(94)
    16
    """
    return _between(round(_PATIENCE * most), *_WAIT)


# Option -> what it is where it is left to the data; each may look at those before it.
_RULES: dict[str, Callable[[Facts, Any], Any]] = {
    "modality_dropout": lambda facts, options: hidden(facts, options.expect_missing),
    "batch_size": lambda facts, _: batch_size(facts),
    "hidden": lambda facts, _: (width(facts),),
    "epochs": lambda facts, options: epochs(facts, options.batch_size),
    "patience": lambda _, options: patience(options.epochs),
}
_CALLED = {"batch_size": "batch size", "hidden": "width", "epochs": "epochs", "patience": "patience"}


def said_of_sizes(asked: TrainingOptions, facts: Facts) -> str:
    """Which sizes the data decided, and by what, in one line; empty where all were given.

    >>> from equifuse.training.options import TrainingOptions
    >>> from equifuse.training.rules import Facts, said_of_sizes
    >>> said_of_sizes(TrainingOptions(batch_size="auto", epochs="auto"), Facts(1000))
    'sizes by 1,000 training rows: batch size 32 (about 32 steps an epoch), epochs 94 (3,000 steps)'

    Args:
        asked: the options, before the rules.
        facts: about the training part.
    """
    why = {
        "batch_size": f"about {_STEPS_OF_EPOCH} steps an epoch",
        "hidden": "4 times the root of the rows",
        "epochs": f"{_STEPS:,} steps",
        "patience": "a sixth of the epochs",
    }
    found = resolved(asked, facts)
    said = []
    for name, called in _CALLED.items():
        if getattr(asked, name, None) == AUTO and getattr(found, name) != AUTO:
            value = getattr(found, name)
            said.append(f"{called} {value[0] if isinstance(value, tuple) else value} ({why[name]})")
    return f"sizes by {facts.rows:,} training rows: {', '.join(said)}" if said else ""


def _power(value: float, least: int, most: int) -> int:
    """The power of two next to a number, between two others."""
    return _between(2 ** round(math.log2(max(value, 1))), least, most)


def _between(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


def still_to_hide(wanted: float, lacking: float) -> float:
    """How often to hide a modality from the samples that have it, so that a share of all lacks it.

    >>> from equifuse.training.rules import still_to_hide
    >>> still_to_hide(0.75, 0.5), still_to_hide(0.1, 0.2)
    (0.5, 0.0)

    Args:
        wanted: the share.
        lacking: the share that lacks it already.
    """
    return max(0.0, (wanted - lacking) / (1 - lacking)) if lacking < 1 else 0.0
