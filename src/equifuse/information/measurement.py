"""What the modalities of a data set know of its target, alone and together, before any model is trained."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse._display import html_table, short_text
from equifuse.data.dataset import MultimodalDataset
from equifuse.errors import InputError
from equifuse.information.estimator import MOST_EXACT, Estimate, Floats, PairBits, Tick
from equifuse.information.measures import class_entropy, o_information, shapley_bits
from equifuse.information.samples import Samples, samples_of
from equifuse.information.verdict import verdict
from equifuse.registry import INFORMATION

# Samples that are measured on, of more so many are drawn.
MOST_SAMPLES = 3000
# Labels or quantities that are measured one by one.
_MOST_TARGETS = 10
# By how many times the first pieces of work may overstate what is left.
_PATIENCE = 2.0
_MEASURED = ("a", "b", "joint", "redundancy", "evidence")
Interval = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two modalities; all in bits, on the samples that have both.

    >>> Pair("text", "image", 0.2, 0.1, 0.0, 0.5, 0.3, 100).joint
    0.8

    Attributes:
        a: name of the first.
        b: name of the second.
        redundancy: either says it.
        unique_a: only the first says it.
        unique_b: only the second says it.
        synergy: only both say it.
        evidence: what both say if each is asked alone and the answers are multiplied, as late fusion does; None where
            it is not measured.
        n: samples.
        intervals: each part, and ``"interaction"`` -> its lowest and highest value in 95 % of bootstrap draws.
    """

    a: str
    b: str
    redundancy: float
    unique_a: float
    unique_b: float
    synergy: float
    evidence: float | None
    n: int
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def joint(self) -> float:
        """What both say: the sum of the four parts."""
        return self.redundancy + self.unique_a + self.unique_b + self.synergy

    @property
    def interaction(self) -> float:
        """What both say beyond what either says, and beyond the evidence of both asked alone."""
        best = self.redundancy + max(self.unique_a, self.unique_b)
        return self.joint - max(best, self.evidence or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("a", "b", "redundancy", "unique_a", "unique_b", "synergy", "joint", "interaction", "evidence", "n")
        return {name: getattr(self, name) for name in names} | {
            "intervals": {name: list(ends) for name, ends in self.intervals.items()}
        }


@dataclass(frozen=True)
class Interactions:
    """The result of :func:`interactions`; all information in bits.

    >>> found = Interactions("predictive", 100, 1.0, {"a": 0.5, "b": 0.25}, [], 0.75, verdict="…")
    >>> found.to_dict()["modalities"]
    {'a': 0.5, 'b': 0.25}

    Attributes:
        estimator: name of the estimator.
        n: samples that were measured on.
        target_entropy: of the target; of several labels or quantities, as all else, the mean.
        modalities: what each says alone.
        pairs: each two, taken apart.
        joint: what all say together.
        evidence: what all say if each is asked alone and the answers are multiplied, or None.
        last: what each adds to all others.
        shapley: each one's share of the joint; of more than four modalities by what each says first and adds last.
        o_information: positive where modalities rather repeat each other, negative where they complete each other.
        baseline: what the same estimate finds about shuffled labels; None where it is not measured.
        intervals: ``"joint"``, ``"evidence"`` and each modality -> lowest and highest value in 95 % of bootstrap draws.
        by_target: label or quantity -> its entropy, modalities and joint; {} where there is one.
        assumption: what has to hold.
        bias: how the estimator errs.
        notes: what was left out or changed.
        verdict: in words.
        samples: columns ``(n,)``: row, id, bits of each modality and of all, and ``needs_both``: what all say beyond
            the best of them; not in ``to_dict``.
    """

    estimator: str
    n: int
    target_entropy: float
    modalities: dict[str, float]
    pairs: list[Pair]
    joint: float
    evidence: float | None = None
    last: dict[str, float] = field(default_factory=dict)
    shapley: dict[str, float] = field(default_factory=dict)
    o_information: float | None = None
    baseline: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    by_target: dict[str, dict[str, Any]] = field(default_factory=dict)
    assumption: str = ""
    bias: str = ""
    notes: list[str] = field(default_factory=list)
    verdict: str = ""
    samples: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = (
            "target_entropy", "modalities", "joint", "evidence", "last", "shapley", "o_information", "baseline",
            "by_target", "verdict", "estimator", "assumption", "bias", "n", "notes",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "pairs": [pair.to_dict() for pair in self.pairs],
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
        }

    def table(self) -> list[list[str]]:
        """Rows of name and bits: each modality, all together, and each asked alone."""
        rows = [[m, f"{value:.3f}"] for m, value in self.modalities.items()]
        rows.append(["all together", f"{self.joint:.3f}"])
        return rows if self.evidence is None else [*rows, ["each asked alone", f"{self.evidence:.3f}"]]

    def __repr__(self) -> str:
        return short_text(f"{self._title()}. {self.verdict}", self.table())

    def _repr_html_(self) -> str:
        return html_table(f"{self._title()}. {self.verdict}", ["modality", "bits"], self.table())

    def _title(self) -> str:
        return f"Interactions ({self.estimator}, {self.n} samples): of {self.target_entropy:.2f} bits"


def interactions(
    dataset: MultimodalDataset,
    estimator: str = "predictive",
    *,
    most_samples: int = MOST_SAMPLES,
    group: str | None = None,
    without: Iterable[str] = (),
    target: str | None = None,
    parts: Sequence[str] = ("train", "val"),
    seconds: float | None = None,
    progress: bool = False,
    **options: Any,
) -> Interactions:
    """Measure what the modalities know of the target, alone and together: whether fusion can pay at all.

    >>> x = np.random.default_rng(0).integers(0, 2, (60, 2)).astype(np.float32)
    >>> y = x[:, 0].astype(np.int64) ^ x[:, 1].astype(np.int64)
    >>> split = ef.datasets.Split({"a": x[:, :1], "b": x[:, 1:]}, target=y)
    >>> data = ef.datasets.MultimodalDataset("xor", {"train": split, "val": split, "test": split}, "classification")
    >>> found = ef.interactions(data)
    >>> found.pairs[0].synergy > 0.8 > 0.2 > found.modalities["a"]
    True

    Measured on the training and validation part, or on the ``parts`` that are named. Quantities are taken as eight
    classes of equal size; several labels or quantities are measured one by one, and the result is their mean.

    Args:
        dataset: the data.
        estimator: name of :data:`equifuse.registry.INFORMATION`: "predictive", "discrete", "gaussian" or "pointwise".
        most_samples: of more, so many are drawn.
        group: column of what must not be torn apart, such as the patient.
        without: modalities to leave out.
        target: one of several labels or quantities; None for all of them.
        parts: of the data set, that are looked at.
        seconds: that it may take; None for as long as it takes.
        progress: whether to show a bar on standard error.
        **options: of the estimator.

    Raises:
        InputError: one modality, fewer than 20 samples, a constant target, a task without a target in bits, an
            estimator that is not made for such data, or it would take longer than it may.
        UnknownNameError: no such estimator, or no such modality to leave out.
    """
    method = INFORMATION.make(estimator, **options)
    samples = samples_of(dataset, most=most_samples, group=group, without=without, parts=tuple(parts))
    targets = samples.targets
    if target is not None:
        targets = [t for t in targets if t.name == target]
        if not targets:
            raise InputError(f"no target {target!r}; known: {', '.join(t.name for t in samples.targets)}")
    notes = list(samples.notes)
    if len(targets) > _MOST_TARGETS:
        notes.append(f"the first {_MOST_TARGETS} of {len(targets)} targets were measured")
        targets = targets[:_MOST_TARGETS]
    if len(samples.names) > MOST_EXACT:
        notes.append("Shapley shares are by what each says first and adds last: exact where no more than two interact")
    if targets[0].values is not None:
        notes.append("of a quantity, which eighth of the samples it is in")
    steps = method.steps(samples) * len(targets)
    with _bar(steps, progress) as tell:
        tick = tell if seconds is None else _within(seconds, steps, tell)
        estimates = [method.estimate(samples, each, tick) for each in targets]
    entropies = [class_entropy(each.classes) for each in targets]
    found = _assembled(samples, _mean(estimates), float(np.mean(entropies)))
    by_target = {
        each.name: {
            "target_entropy": own,
            "modalities": {m: max(0.0, float(e.bits[(m,)][0])) for m in samples.names},
            "joint": max(0.0, float(e.bits[samples.names][0])),
        }
        for each, own, e in zip(targets, entropies, estimates, strict=True)
        if len(targets) > 1
    }
    result = Interactions(
        estimator=method.name,
        n=len(samples),
        target_entropy=float(np.mean(entropies)),
        by_target=by_target,
        assumption=method.assumption,
        bias=method.bias,
        notes=notes,
        samples=_by_sample(samples, estimates[0]) if len(targets) == 1 else {},
        **found,
    )
    return replace(result, verdict=verdict(result))


def _within(seconds: float, steps: int, tell: Tick) -> Tick:
    """``tell``, and an end once it is plain that the time does not suffice."""
    began, done = time.monotonic(), 0

    def tick(label: str) -> None:
        nonlocal done
        done += 1
        spent = time.monotonic() - began
        if max(spent, spent / done * steps / _PATIENCE) > seconds:
            raise InputError(f"it takes longer than {seconds:.2g} s; measure fewer samples or modalities")
        tell(label)

    return tick


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Tick]:
    if not shown:
        yield lambda label: None
        return
    from equifuse.runs.progress import count_bar  # noqa: PLC0415

    with count_bar(total, True, "measuring", "subsets") as update:
        yield update


def _mean(estimates: list[Estimate]) -> Estimate:
    """The mean over targets; each part of a decomposition is linear in what it is made of."""
    if len(estimates) == 1:
        return estimates[0]

    def mean(values: list[Any]) -> Any:
        return None if any(v is None for v in values) else np.mean(values, axis=0)

    def pair(key: tuple[str, str]) -> PairBits:
        every = [e.pairs[key] for e in estimates]
        a, b, joint, redundancy, evidence = (mean([getattr(p, name) for p in every]) for name in _MEASURED)
        return PairBits(a, b, joint, redundancy, evidence, every[0].n)

    pairs = {key: pair(key) for key in estimates[0].pairs}
    return Estimate(
        {s: mean([e.bits[s] for e in estimates]) for s in estimates[0].bits},
        pairs,
        mean([e.evidence for e in estimates]),
        mean([e.baseline for e in estimates]),
    )


def _assembled(samples: Samples, estimate: Estimate, entropy: float) -> dict[str, Any]:
    """Numbers and intervals of an estimate; nothing is negative, and nothing says less than a part of it."""
    names = samples.names
    complete = all(mask.all() for mask in samples.present.values())
    bits = {s: np.clip(value, 0.0, entropy) for s, value in estimate.bits.items()}
    pairs = []
    for (a, b), found in estimate.pairs.items():
        parts = atoms(found, entropy)
        total: Floats = np.sum(list(parts.values()), axis=0)
        if complete:
            bits[a, b] = np.maximum(bits[a, b], total)
        alone = [found.a, found.b] if found.evidence is None else [found.a, found.b, found.evidence]
        beyond = total - np.maximum(0.0, np.max(alone, axis=0))
        intervals = {name: _interval(value) for name, value in (parts | {"interaction": beyond}).items()}
        evidence = None if found.evidence is None else max(0.0, float(found.evidence[0]))
        point = [float(value[0]) for value in parts.values()]
        pairs.append(Pair(a, b, point[0], point[1], point[2], point[3], evidence, found.n, intervals))
    if complete:
        for size in range(2, len(names) + 1):
            for s in (s for s in bits if len(s) == size):
                inner = [value for t, value in bits.items() if set(t) < set(s)]
                bits[s] = np.maximum(bits[s], np.max(inner, axis=0))
    known = {s: float(value[0]) for s, value in bits.items()}
    rest = {m: known[tuple(other for other in names if other != m)] for m in names}
    intervals = {m: _interval(bits[(m,)]) for m in names} | {"joint": _interval(bits[names])}
    if estimate.evidence is not None:
        intervals["evidence"] = _interval(np.maximum(0.0, estimate.evidence))
    return {
        "modalities": {m: known[(m,)] for m in names},
        "pairs": pairs,
        "joint": known[names],
        "evidence": None if estimate.evidence is None else max(0.0, float(estimate.evidence[0])),
        "last": {m: known[names] - rest[m] for m in names},
        "shapley": shapley_bits(known, names),
        "o_information": o_information(known, names),
        "baseline": None if estimate.baseline is None else float(estimate.baseline),
        "intervals": intervals,
    }


def atoms(found: PairBits, entropy: float) -> dict[str, Floats]:
    """The four parts of a pair, each ``(1 + D,)``: none is negative, and together they are no more than the entropy."""
    a, b = (np.clip(x, 0.0, entropy) for x in (found.a, found.b))
    redundancy = np.clip(found.redundancy, np.maximum(0.0, a + b - entropy), np.minimum(a, b))
    union = a + b - redundancy
    return {
        "redundancy": redundancy,
        "unique_a": a - redundancy,
        "unique_b": b - redundancy,
        "synergy": np.maximum(0.0, np.minimum(found.joint, entropy) - union),
    }


def _interval(values: Floats) -> Interval:
    """95 % of the draws, and the estimate in any case."""
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (values[0], values[0])
    return float(min(low, values[0])), float(max(high, values[0]))


def _by_sample(samples: Samples, estimate: Estimate) -> dict[str, NDArray[Any]]:
    if not estimate.pointwise:
        return {}
    columns: dict[str, NDArray[Any]] = {"row": samples.rows}
    if samples.ids is not None:
        columns["id"] = samples.ids
    columns |= {m: estimate.pointwise[(m,)] for m in samples.names}
    columns["all"] = estimate.pointwise[samples.names]
    columns["needs_both"] = columns["all"] - np.max([columns[m] for m in samples.names], axis=0)
    order = np.argsort(samples.rows)
    return {name: column[order] for name, column in columns.items()}
