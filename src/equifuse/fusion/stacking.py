"""Stacking: a model for each modality, and a linear model of what they say of samples that they have not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.fitted import FittedFusion, FittingProblem, Floats, State, folds_of, is_classes
from equifuse.fusion.make import make_fusion, register
from equifuse.fusion.output_map import OutputMap

# What a modality's model may be; the better one of samples that it has not seen is taken.
_BASES = ("linear", "trees")
_TREES = 100
_FOLDS = 5
# What becomes of what the models say: log-probabilities of classes, or nothing.
_READINGS = ("classes", "values")
_LEAST = -20.0
_ROUNDING = 1e-5


@register
class Stacking(FittedFusion):
    """A model for each modality alone, and a linear model of what they say (Wolpert 1992).

    Each modality has a linear model or extremely randomised trees, whichever predicts better what it has not seen, in 5
    folds of the samples that have the modality. The linear model that joins them is fitted to what was said unseen, the
    strength of its penalty chosen on validation. A modality that is missing says nothing, and a column says so.

    >>> fusion = ef.fusion.Stacking({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        bases: modality name -> its model, a mapping of ``name`` and options; set by fitting.
        reading: what becomes of what they say; set by fitting.

    ``modalities`` holds the inputs, ``decisions`` what the model of each modality says.

    Raises:
        UnknownNameError: a model that is none of both.
        InputError: ``outputs`` is below 1.

    Formula: ``W [s_1(f_1(x_1)), …, s_M(f_M(x_M)), missing] + b``; ``s_m`` standardises, and is 0 where ``x_m`` is
    missing.
    """

    name: ClassVar[str] = "stacking"

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int = 2,
        bases: Mapping[str, Mapping[str, Any]] | None = None,
        reading: str = "values",
    ) -> None:
        super().__init__(dims, outputs)
        if reading not in _READINGS:
            raise UnknownNameError("reading of stacked models", reading, _READINGS)
        if bases is not None and list(bases) != list(dims):
            raise InputError(f"bases are of the modalities {', '.join(dims)}, got {', '.join(bases)}")
        self.reading = reading
        self.bases = nn.ModuleDict()
        for m, width in dims.items():
            options = dict((bases or {}).get(m, {"name": _BASES[0]}))
            self.bases[m] = _base(str(options.pop("name", "")), width, outputs, options)
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", torch.zeros(len(dims), outputs))
        self.register_buffer("scale", torch.ones(len(dims), outputs))
        self.linear = OutputMap(len(dims) * (outputs + 1), outputs)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Whether no modality has trees."""
        return all(base.differentiable for _, base in self._each())

    def current_options(self) -> dict[str, Any]:
        """With what fitting decided."""
        bases = {m: {"name": base.name, **_without_dims(base.config())} for m, base in self._each()}
        return {**super().current_options(), "bases": bases, "reading": self.reading}

    def candidates(self, problem: FittingProblem) -> Iterator[State]:
        """The linear models of what the modalities' models say, of several strengths."""
        assert problem.target is not None
        reading = "classes" if is_classes(problem) and problem.target.ndim == 1 else "values"
        said: list[Floats] = []
        known: list[NDArray[np.bool_]] = []
        parts: dict[str, Tensor] = {}
        number = 0
        for i, (m, width) in enumerate(self.dims.items()):
            x, has = problem.columns[:, number : number + width], problem.columns[:, sum(self.dims.values()) + i] == 0
            number += width
            best = _best_base(problem, x, has, self.outputs)
            parts |= {f"{m}.{name}": array for name, array in best.state.items()}
            parts[f"{m}.base"] = torch.tensor(_BASES.index(best.name))
            said.append(_read(best.unseen, reading))
            known.append(has)
        moments = [_moments(s[h] if h.any() else s) for s, h in zip(said, known, strict=True)]
        center, scale = [c for c, _ in moments], [d for _, d in moments]
        parts |= {"center": torch.from_numpy(np.stack(center)), "scale": torch.from_numpy(np.stack(scale))}
        parts["reading"] = torch.tensor(_READINGS.index(reading))
        features = [(s - c) / d * h[:, None] for s, c, d, h in zip(said, center, scale, known, strict=True)] + [
            np.stack([~h for h in known], 1).astype(np.float64)
        ]
        for fit in problem.task.linear_fits(features, problem.target, problem.weight):
            yield {**parts, "weight": torch.from_numpy(fit.weight), "bias": torch.from_numpy(fit.bias)}

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Take the models of the modalities, and the linear one."""
        for m, width in self.dims.items():
            own = {name.removeprefix(f"{m}."): array for name, array in state.items() if name.startswith(f"{m}.")}
            base = _base(_BASES[int(own.pop("base"))], width, self.outputs, {}).to(self.center)
            base.restore(own)
            self.bases[m] = base
        self.reading = _READINGS[int(state["reading"])]
        for name in ("center", "scale"):
            getattr(self, name).copy_(state[name])
        self.linear.weight.copy_(state["weight"])
        self.linear.bias.copy_(state["bias"])

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Predict from rows ``(R, l_m)``, and say what each modality says."""
        output = super().fuse(rows)
        for m, base in self._each():
            if m in rows.values:
                said = base.predict(torch.cat([rows.values[m], torch.zeros_like(rows.values[m][:, :1])], 1))
                output.decisions[m] = torch.where(rows.mask(m), said, 0.0)
        return output

    def predict(self, columns: Tensor) -> Tensor:
        """See the formula."""
        *features, missing = torch.split(columns, [*self.dims.values(), len(self.dims)], dim=1)
        parts = []
        for i, ((_, base), x) in enumerate(zip(self._each(), features, strict=True)):
            said = base.predict(torch.cat([x, torch.zeros_like(x[:, :1])], 1))
            if self.reading == "classes":
                said = torch.log_softmax(said, 1).clamp(min=_LEAST)
            parts.append((said - self.center[i]) / self.scale[i] * (1 - missing[:, i : i + 1]))
        found: Tensor = self.linear(torch.cat([*parts, missing], 1))
        return found

    def output_maps(self) -> list[OutputMap]:
        """The map that joins."""
        return [self.linear]

    def _each(self) -> list[tuple[str, FittedFusion]]:
        return [(m, base) for m, base in self.bases.items() if isinstance(base, FittedFusion)]


@dataclass(frozen=True)
class _Base:
    """A modality's model: its kind, what it is, and what it says of samples that it has not seen, ``(n, K)``."""

    name: str
    state: State
    unseen: Floats


def _base(name: str, width: int, outputs: int, options: Mapping[str, Any]) -> FittedFusion:
    if name not in _BASES:
        raise UnknownNameError("model of a modality", name, _BASES)
    given = {"trees": _TREES, **options} if name == "trees" else dict(options)
    base = make_fusion(name, {"x": width}, **{**given, "outputs": outputs})
    assert isinstance(base, FittedFusion)
    return base


def _without_dims(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("name", "dims", "outputs")}


def _best_base(problem: FittingProblem, x: Floats, has: NDArray[np.bool_], outputs: int) -> _Base:
    """The kind of model and its setting with the least loss on samples that it has not seen."""
    y = problem.target
    assert y is not None
    rows = np.flatnonzero(has)
    own = replace(problem.at(rows), columns=np.concatenate([x[rows], np.zeros((len(rows), 1))], 1))
    # Of classes that are never seen with the modality a linear model would not know.
    all_there = y.ndim == 2 or len(np.unique(y[rows])) == outputs
    best: tuple[float, str, int, Floats] | None = None
    for name in _BASES if all_there else _BASES[1:]:
        for number, said in enumerate(_unseen(name, own, outputs)):
            loss = _loss(problem, said, rows)
            if best is None or loss < best[0]:
                best = loss, name, number, said
    if best is None:
        raise InputError("a modality that no training sample has cannot be stacked; leave it out")
    _, name, number, said = best
    state = list(_base(name, x.shape[1], outputs, {}).candidates(own))[number]
    unseen = np.zeros((len(x), outputs))
    unseen[rows] = said
    return _Base(name, state, unseen)


def _unseen(name: str, problem: FittingProblem, outputs: int) -> Sequence[Floats]:
    """What a model says of each sample by folds, for each of its settings."""
    y = problem.target
    assert y is not None
    if not len(y):
        return []
    found: list[Floats] = []
    for learn, stop in folds_of(y if y.ndim == 1 and is_classes(problem) else None, len(y), _FOLDS, problem.seed):
        base = _base(name, problem.columns.shape[1] - 1, outputs, {}).double()
        for number, state in enumerate(base.candidates(problem.at(learn))):
            if len(found) <= number:
                found.append(np.zeros((len(y), outputs)))
            base.restore(state)
            with torch.no_grad():
                found[number][stop] = base.predict(torch.from_numpy(problem.columns[stop])).double().numpy()
    return found


def _loss(problem: FittingProblem, said: Floats, rows: NDArray[np.intp]) -> float:
    assert problem.target is not None
    weight = problem.weighted(rows)
    return float(
        problem.task.loss(
            torch.from_numpy(said).float(),
            torch.from_numpy(problem.target[rows]),
            None if weight is None else torch.from_numpy(weight).float(),
        )
    )


def _moments(said: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each output; 1 for the deviation of what varies by rounding alone."""
    center, deviation = said.mean(0), said.std(0)
    return center, np.where(deviation > _ROUNDING * np.abs(center).clip(min=1), deviation, 1.0)


def _read(said: Floats, reading: str) -> Floats:
    if reading == "values":
        return said
    return torch.log_softmax(torch.from_numpy(said), 1).clamp(min=_LEAST).numpy()
