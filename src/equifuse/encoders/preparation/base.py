"""What a step of a preparation is: fitted on the training part, stored as plain arrays, a layer of the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.errors import DataError, InputError

# What a column holds: a "number", a "part" of something else (of a date or a text, or an indicator), or the code of a
# "category".
Kind = str
# What is trained along has no mean and deviation yet.
LEARNT: Kind = "learnt"
# How the type of an array is stored.
_DTYPES = {"float": torch.float32, "int": torch.int64, "bool": torch.bool}


@dataclass(frozen=True)
class Sample:
    """The training rows of a modality, as a step is fitted on them.

    >>> from equifuse.encoders.preparation import Sample
    >>> rows = Sample(torch.tensor([[1.0, float("nan")], [3.0, 4.0]]))
    >>> rows.kinds, rows.name(1)
    (('number', 'number'), 'column 1')

    Attributes:
        x: ``(n, l)`` float64, NaN where a cell is empty.
        kinds: of the ``l`` columns; numbers where not given.
        names: of the ``l`` columns; () where they have none.
        response: ``(n,)`` or ``(n, K)``, what selection looks at, or None.
        classes: whether the response is classes and not quantities.
        weight: ``(n,)``, what each row counts, or None for the same.
    """

    x: Tensor
    kinds: tuple[Kind, ...] = ()
    names: tuple[str, ...] = ()
    response: NDArray[Any] | None = None
    classes: bool = False
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", self.x.double())
        if not self.kinds:
            object.__setattr__(self, "kinds", ("number",) * self.width)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x.shape[1]

    def name(self, column: int) -> str:
        """What a column is called in messages."""
        return repr(self.names[column]) if self.names else f"column {column}"

    def mask(self, *kinds: Kind) -> Tensor:
        """Bool ``(l,)``: which columns are of these kinds."""
        return torch.tensor([kind in kinds for kind in self.kinds], dtype=torch.bool)


class Preparation(nn.Module, ABC):
    """Base of the steps that prepare the features of a modality; ``--prepare mrna=log1p,variance:2000`` names two.

    A step learns arrays from the training part (:meth:`learn`) and applies them to any rows, as a layer of the model:
    so it is stored, exported and served with it. One of your own is a subclass registered by
    ``@equifuse.registry.PREPARATIONS.register`` or by an entry point of the group ``equifuse.preparations``.

    Example:
        >>> from equifuse.encoders.preparation import Preparation, Sample
        >>> class Largest(Preparation):
        ...     "Divide each feature by its largest value in the training part."
        ...     name = "largest"
        ...     def learn(self, sample):
        ...         self.keep(largest=sample.x.nan_to_num().abs().amax(0).clamp(min=1e-30))
        ...     def forward(self, x):
        ...         return x / self.largest
        >>> step = Largest()
        >>> step.learn(Sample(torch.tensor([[1.0, 5.0], [2.0, 10.0]])))
        >>> step(torch.tensor([[1.0, 10.0]])).tolist()
        [[0.5, 1.0]]

    Attributes:
        name: by which it is asked for.
        usage: how it is written, for messages: ``"variance:K"``.
        fills: whether no cell is empty after it.
        complete: whether it needs rows without empty cells.
        early: whether it may see the codes of categories; other steps get them as columns of 0 and 1.
        spec: how this one was written: ``"variance:2000"``.
        width: number of columns after the step, once it is fitted.
    """

    name: ClassVar[str]
    usage: ClassVar[str] = ""
    fills: ClassVar[bool] = False
    complete: ClassVar[bool] = False
    early: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.spec = self.name
        self.width = 0
        self._kept: tuple[str, ...] = ()

    @classmethod
    def of_words(cls, *words: Any) -> Self:
        """The step from what stands after the colons of its specification."""
        return cls(*words)

    @abstractmethod
    def learn(self, sample: Sample) -> None:
        """Fit the step on the training part, with :meth:`keep`.

        Raises:
            DataError: the rows are none that it can be fitted on.
            InputError: an option that does not fit them.
        """

    def sources(self, width: int) -> NDArray[np.int64] | None:
        """For each column after the step, the one of the ``width`` columns that it is made of; None for several."""
        return np.arange(width)

    def kinds(self, before: Sequence[Kind]) -> tuple[Kind, ...]:
        """The kinds of the columns after the step."""
        found = self.sources(len(before))
        if found is None:
            return ("part",) * self.width
        return tuple(before[i] for i in found)

    def follow(self, sample: Sample) -> Sample:
        """The rows after the step, which has been fitted."""
        with torch.no_grad():
            x = self(sample.x)
        self.width = x.shape[1]
        found = self.sources(sample.width)
        names: tuple[str, ...] = ()
        if found is not None and sample.names:
            names = tuple(sample.names[i] for i in found)
        return Sample(x, self.kinds(sample.kinds), names, sample.response, sample.classes, sample.weight)

    def keep(self, **arrays: Tensor | NDArray[Any]) -> None:
        """Store arrays under their names; they become attributes, and are stored with the model."""
        for name, value in arrays.items():
            tensor = torch.as_tensor(value).detach().clone(memory_format=torch.contiguous_format)
            self.register_buffer(name, tensor.to(torch.int64) if _kind_of(tensor) == "int" else tensor)
        self._kept = tuple(dict.fromkeys((*self._kept, *arrays)))

    def stored(self) -> dict[str, Any]:
        """Plain values from which :meth:`restore` makes the step, with arrays of the same shapes."""
        arrays = {name: getattr(self, name) for name in self._kept}
        described = {name: [_kind_of(x), *x.shape] for name, x in arrays.items()}
        return {"step": self.spec, "width": self.width, "arrays": described}

    def restore(self, width: int, arrays: Mapping[str, Sequence[Any]]) -> Self:
        """Give the step empty arrays, which the weights of a stored model fill.

        Raises:
            DataError: a damaged description.
        """
        self.width = width
        for name, (kind, *shape) in arrays.items():
            if kind not in _DTYPES or not name.isidentifier() or hasattr(self, name):
                raise DataError(f"the step {self.spec!r} has no array {name!r} of {kind!r}")
            self.keep(**{name: torch.zeros([int(n) for n in shape], dtype=_DTYPES[kind])})
        return self

    @property
    def summary(self) -> str:
        """How it was written, and the number of columns that it leaves."""
        return f"{self.spec} -> {self.width}"

    def extra_repr(self) -> str:
        """How it was written."""
        return self.spec


def _kind_of(x: Tensor) -> str:
    if x.dtype == torch.bool:
        return "bool"
    return "float" if x.is_floating_point() else "int"


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An option that counts something.

    Raises:
        InputError: it does not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def share(name: str, value: Any) -> float:
    """An option between 0 and 1.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} must be between 0 and 1, got {value!r}")
    return float(value)
