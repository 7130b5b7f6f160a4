"""The search: every candidate on the first fold, the better half on all folds, then further settings of the best.

What is left of a time limit goes to the other folds of the other half, then to further partitions into folds, on which
the methods of the ensemble are trained once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from equifuse.auto.judging import Judge
from equifuse.auto.limits import Budget, duration
from equifuse.auto.options import Preset
from equifuse.auto.pieces import Job, Piece, TimeUp, carry_out, finished
from equifuse.auto.portfolio import Candidate, further
from equifuse.auto.selection import greedy_weights
from equifuse.data import MultimodalDataset, Split
from equifuse.data.lazy import Indices
from equifuse.errors import InputError
from equifuse.files import read_json, write_json
from equifuse.registry import TASKS
from equifuse.runs.config import TrainConfig
from equifuse.runs.executors import executor
from equifuse.runs.folds import bagged
from equifuse.runs.members import averaged_by_row

# Of the candidates that go on to all folds there are at least so many.
_LEAST = 3
# The best methods of which further settings are tried.
_VARIED = 3
# A piece of the first round may take so many times its even share of the time.
_GENEROUS = 1.5
# Seconds for what comes after the search, beside what predicting takes: at least, and as a share of the limit. On a
# machine that is busy it takes longer, as what came before the search did.
_AFTER, _AFTER_SHARE, _AFTER_MOST = 4.0, 0.03, 0.25
SPENT = "spent.json"


@dataclass
class Plan:
    """What a search is about.

    Args:
        base: the options that all candidates share.
        dataset: the data, as arranged by the protocol.
        candidates: what is tried.
        preset: how much.
        folder: of the pieces.
        budget: of time.
        workers: processes; 0 works in this one.
        tell: is given a line after each piece.
        before: seconds that were spent before an interruption.
        lacking: methods that are not tried, since their packages are not installed.
    """

    base: TrainConfig
    dataset: MultimodalDataset
    candidates: Sequence[Candidate]
    preset: Preset
    folder: Path
    budget: Budget
    workers: int = 0
    tell: Callable[[str], None] = lambda _: None
    before: float = 0.0
    lacking: Sequence[str] = ()


class Search:
    """Trains candidates piece by piece, and knows what came of them.

    Args:
        plan: what it is about.
        judge: makes the judge of the rows and folds.

    Attributes:
        rows: that outputs are of: train and validation as one, or the validation part.
        partitions: rows of each fold, of each partition into folds; candidates are chosen by the first.
        average: the task's way to make one prediction of several.
        candidates: those that were tried, by name.
        pieces: candidate and fold -> what came of it; folds are counted through the partitions.
        notes: candidate -> why it was not trained on all folds.
    """

    def __init__(self, plan: Plan, judge: Callable[[Split, list[Indices]], Judge]) -> None:
        self.plan = plan
        count = plan.preset.folds
        if count > 1:
            self.rows, every = bagged(plan.dataset, replace(plan.base, ensemble=count, repeats=self._repeats))
            stops = [stop for _, stop in every]
            self.partitions = [stops[start : start + count] for start in range(0, len(stops), count)]
        else:
            self.rows = plan.dataset.splits["val"]
            self.partitions = [[torch.arange(len(self.rows)).numpy()]]
        self._judges = [judge(self.rows, folds) for folds in self.partitions]
        self.judge = self._judges[0]
        self.average = TASKS.get(plan.dataset.task).averaging(plan.dataset.classes)
        self.candidates = {candidate.name: candidate for candidate in plan.candidates}
        self.pieces: dict[tuple[str, int], Piece] = {}
        self.notes: dict[str, str] = {}
        self._before = plan.budget.elapsed() - plan.before
        self._costs: dict[tuple[str, int], float] = {}
        self._outputs: dict[tuple[str, int, bool], Tensor] = {}

    def run(self) -> None:
        """Search until everything was tried or the time is up.

        Raises:
            InputError: no model could be trained; the message says why.
        """
        plan = self.plan
        # Pieces that are still being worked on when the time is up are not waited for: their processes end.
        with suppress(TimeUp), executor(plan.workers) if plan.workers else nullcontext() as pool:
            self._first_round(pool)
            if len(self.folds) > 1:
                self._carry_out(self._other_folds(self._better_half()), pool)
            self._further(pool)
            if len(self.folds) > 1 and math.isfinite(plan.budget.limit):
                self._carry_out(self._other_folds(self._left_out()), pool)
                self._repeat(pool)
        for name in self.complete():
            self.notes.pop(name, None)
        for name in self.candidates:
            if (name, 0) not in self.pieces:
                self.notes[name] = "no time"
        if not any(piece.failed is None for piece in self.pieces.values()):
            failed = [piece for piece in self.pieces.values() if piece.failed]
            if failed:
                raise InputError(f"no model could be trained; {failed[0].candidate}: {failed[0].failed}")
            raise InputError(
                f"the time limit is too short for a single model: {duration(self._before)} passed before the first "
                "could be trained; give more"
            )

    @property
    def folds(self) -> list[Indices]:
        """Rows of each fold of the first partition."""
        return self.partitions[0]

    def complete(self) -> list[str]:
        """Names of the candidates that have a model for every fold, the best first.

        Where time was too short for any, those that have one for the first fold.
        """
        whole = [name for name in self.candidates if all(self._has(name, f) for f in range(len(self.folds)))]
        found = whole or [name for name in self.candidates if self._has(name, 0)]
        return sorted(found, key=lambda name: self.judge.cost(self.outputs(name), self.known()))

    def known(self) -> list[int]:
        """Numbers of the folds that all complete candidates have a model for."""
        whole = any(all(self._has(name, f) for f in range(len(self.folds))) for name in self.candidates)
        return list(range(len(self.folds))) if whole else [0]

    def outputs(self, name: str, expected: bool | None = None) -> Tensor:
        """What a candidate's models said of rows that they were not trained on, NaN where none has said anything.

        Args:
            name: of the candidate.
            expected: with as many modalities missing as are expected to be; default where some are.
        """
        expected = bool(self.plan.base.expect_missing) if expected is None else expected
        first = [self.pieces[name, f] for f in range(len(self.folds)) if self._has(name, f)]
        return self.assembled([*first, *self._repeated(name)], lambda piece: self._said(piece, expected))

    def assembled(self, pieces: Sequence[Piece], said: Callable[[Piece], Tensor]) -> Tensor:
        """What models say of the rows that they were not trained on, as outputs of all rows.

        Args:
            pieces: of one candidate.
            said: outputs of a piece's model for the rows that it stopped on.
        """
        outputs, stops = [said(piece) for piece in pieces], [self.rows_of(piece.fold) for piece in pieces]
        return averaged_by_row(outputs, stops, len(self.rows), self.average)

    def rows_of(self, fold: int) -> Indices:
        """Rows of a fold, counted through the partitions."""
        partition, number = divmod(fold, len(self.folds))
        return self.partitions[partition][number]

    def weights(self) -> dict[str, float]:
        """The share of each complete candidate in the ensemble, the best candidate first."""
        names, judge = self.complete(), self.judge.only(self.known())
        outputs = [self.outputs(name) for name in names]
        return dict(zip(names, greedy_weights(outputs, judge.cost, self.average), strict=True))

    def models_of(self, name: str) -> list[Piece]:
        """The pieces of a complete candidate: those of the first partition, then those of the repeats."""
        return [*(self.pieces[name, f] for f in self.known()), *self._repeated(name)]

    def reserved(self) -> float:
        """Seconds that must be left when the search ends: for predictions of the test part, files and figures."""
        limit = self.plan.budget.limit
        # Twice with and once without each modality, in the ensemble and alone.
        passes = 2 * (len(self.plan.dataset.modalities) + 3)
        row = sum(piece.predict_seconds for piece in self.pieces.values())
        predicting = passes * len(self.plan.dataset.splits["test"]) * row
        return self.fixed + min(predicting, 0.3 * limit if math.isfinite(limit) else predicting)

    @property
    def fixed(self) -> float:
        """Seconds for files and figures."""
        limit = self.plan.budget.limit
        if math.isinf(limit):
            return 0.0
        return min(max(_AFTER + _AFTER_SHARE * limit, self._before), _AFTER_MOST * limit)

    @property
    def _repeats(self) -> int:
        """Partitions into folds, at most: one where there is one way to part rows, or models' outputs have no unit."""
        plan = self.plan
        if math.isinf(plan.budget.limit) or "order" in plan.base.source or TASKS.get(plan.dataset.task).time_to_event:
            return 1
        return plan.preset.repeats

    def _repeated(self, name: str) -> list[Piece]:
        """The pieces of a candidate in the further partitions that it has models for all folds of."""
        count, found = len(self.folds), []
        for first in range(count, count * len(self.partitions), count):
            if all(self._has(name, f) for f in range(first, first + count)):
                found += [self.pieces[name, f] for f in range(first, first + count)]
        return found

    def _has(self, name: str, fold: int) -> bool:
        piece = self.pieces.get((name, fold))
        return piece is not None and piece.failed is None

    def _left(self) -> float:
        return self.plan.budget.left(self.reserved())

    @property
    def _lanes(self) -> int:
        return max(1, self.plan.workers)

    def _job(self, candidate: Candidate, fold: int, seconds: float) -> Job:
        config = candidate.config(self.plan.base)
        if len(self.folds) > 1:
            config = replace(config, ensemble=len(self.folds), repeats=len(self.partitions), member=fold)
        expected = self.plan.base.expect_missing
        folder = self.plan.folder / _folder_name(candidate.name) / str(fold + 1)
        return Job(candidate.name, fold, config, str(folder), expected, self.plan.budget.deadline(seconds))

    def _carry_out(self, jobs: Iterator[Job], pool: Executor | None) -> None:
        for piece in carry_out(jobs, self.plan.dataset, self.plan.budget, self.reserved, pool, self._lanes):
            self._take(piece)

    def _take(self, piece: Piece) -> None:
        """Note what came of a piece, and tell."""
        key = piece.candidate, piece.fold
        self.pieces[key] = piece
        count = len(self.folds)
        partition, number = divmod(piece.fold, count)
        where = f", fold {number + 1} of {count}" if count > 1 else ""
        where += f", repeat {partition + 1}" if partition else ""
        said = f"{piece.candidate}{where}: "
        if piece.failed:
            self.notes[piece.candidate] = piece.failed
            said += f"failed ({piece.failed})"
        else:
            self._costs[key] = self._cost_of(piece)
            said += f"{self.judge.task.monitor} {self.judge.sign * self._costs[key]:.4f} ({duration(piece.seconds)})"
        if self._costs:
            best = min((name for name, fold in self._costs), key=self.mean_cost)
            said += f"; best so far {best}, {self.judge.sign * self.mean_cost(best):.4f}"
        left = self._left()
        self.plan.tell(said + (f"; {duration(left)} left" if math.isfinite(left) else ""))
        write_json(self.plan.folder / SPENT, {"seconds": self.plan.budget.elapsed()})

    def _cost_of(self, piece: Piece) -> float:
        partition, number = divmod(piece.fold, len(self.folds))
        outputs = self.assembled([piece], lambda piece: self._said(piece, bool(self.plan.base.expect_missing)))
        return self._judges[partition].cost(outputs, [number])

    def _said(self, piece: Piece, expected: bool) -> Tensor:
        """A piece's outputs, read once."""
        key = piece.candidate, piece.fold, expected
        if key not in self._outputs:
            self._outputs[key] = piece.outputs(expected)
        return self._outputs[key]

    def mean_cost(self, name: str) -> float:
        """The mean cost over the folds that there are of a candidate; infinite where there is none."""
        costs = [cost for (other, _), cost in self._costs.items() if other == name]
        return sum(costs) / len(costs) if costs else math.inf

    def _seconds(self, name: str) -> float:
        """How long a piece of a candidate takes, as its first did."""
        return self.pieces[name, 0].seconds

    def _known_before(self, candidate: Candidate, fold: int) -> bool:
        """Whether a piece was finished before an interruption; it is taken in then."""
        if (candidate.name, fold) in self.pieces:
            return True
        folder = self.plan.folder / _folder_name(candidate.name) / str(fold + 1)
        piece = finished(folder)
        if piece is not None:
            self._take(piece)
        return piece is not None

    def _first_round(self, pool: Executor | None) -> None:
        """Every candidate on the first fold."""

        def jobs() -> Iterator[Job]:
            candidates, count = self.plan.candidates, len(self.folds)
            for number, candidate in enumerate(candidates):
                if self._known_before(candidate, 0):
                    continue
                left, rest = self._left(), len(candidates) - number
                if left <= 0:
                    return
                to_come = rest + (max(_LEAST, math.ceil(len(candidates) / 2)) * (count - 1) if count > 1 else 0)
                share = _GENEROUS * left * self._lanes / to_come
                # What is fitted at once begins with poor settings, and is no use when it is cut short.
                yield self._job(candidate, 0, left if candidate.fitted else min(left, share))

        self._carry_out(jobs(), pool)

    def _better_half(self) -> list[Candidate]:
        """The candidates that go on, in turn; the others are told why not."""
        ranked = self._ranked()
        kept = max(_LEAST, math.ceil(len(ranked) / 2))
        for candidate in ranked[kept:]:
            self.notes[candidate.name] = "not among the better half on the first fold"
        turn = in_turn([candidate.name for candidate in ranked[:kept]], self._seconds)
        return [self.candidates[name] for name in turn]

    def _ranked(self) -> list[Candidate]:
        """The candidates that have a model for the first fold, the best first."""
        tried = [c for c in self.plan.candidates if self._has(c.name, 0)]
        return sorted(tried, key=lambda c: self._costs[c.name, 0])

    def _left_out(self) -> list[Candidate]:
        """Those that lack folds, mostly the other half: a first fold of few rows says little."""
        return [c for c in self._ranked() if not self._has(c.name, len(self.folds) - 1)]

    def _other_folds(self, candidates: Sequence[Candidate], folds: range | None = None) -> Iterator[Job]:
        """Folds of candidates, one candidate after the other, of those that there is time for.

        Args:
            candidates: in their turn.
            folds: numbers; default those after the first, of the first partition.
        """
        for candidate in candidates:
            missing = [f for f in folds or range(1, len(self.folds)) if not self._known_before(candidate, f)]
            left = self._left()
            if missing and self._seconds(candidate.name) * len(missing) / self._lanes > left:
                if folds is None:
                    self.notes[candidate.name] = "no time for the other folds"
                continue
            for number, fold in enumerate(missing):
                share = self._left() * self._lanes / (len(missing) - number)
                yield self._job(candidate, fold, min(self._left(), share))

    def _further(self, pool: Executor | None) -> None:
        """Further settings of the best methods; one that is better than its method on the first fold gets all folds."""
        if not self.plan.preset.trials or not any(self._has(c.name, 0) for c in self.plan.candidates):
            return
        own = {c.name for c in self.plan.candidates if not c.fitted}
        varied = [self.candidates[name] for name in self.complete() if name in own][:_VARIED]
        numbers = iter(range(1, self.plan.preset.trials + 1)) if varied else iter(())
        while True:
            # As many at a time as there are processes, so that what is tried does not depend on which is done first.
            batch = []
            for number in (n for _, n in zip(range(self._lanes), numbers, strict=False)):
                method = varied[(number - 1) % len(varied)]
                batch.append((method, further(method, number, self.plan.base.seed)))
            if not batch:
                return
            for _, trial in batch:
                self.candidates[trial.name] = trial
            self._carry_out(self._trials(batch), pool)
            better = [t for m, t in batch if self._has(t.name, 0) and self._costs[t.name, 0] < self._costs[m.name, 0]]
            for method, trial in batch:
                if self._has(trial.name, 0) and trial not in better:
                    self.notes[trial.name] = f"on the first fold not better than {method.name}"
            if len(self.folds) > 1:
                self._carry_out(self._other_folds(better), pool)
            if all((trial.name, 0) not in self.pieces for _, trial in batch):
                return

    def _repeat(self, pool: Executor | None) -> None:
        """The ensemble's methods on further partitions into folds, so that more models of each are averaged."""
        for repeat in range(1, len(self.partitions) if self.complete() else 1):
            chosen = [self.candidates[name] for name, weight in self.weights().items() if weight > 0]
            folds, before = range(repeat * len(self.folds), (repeat + 1) * len(self.folds)), len(self.pieces)
            self._carry_out(self._other_folds(chosen, folds), pool)
            if len(self.pieces) == before:
                return

    def _trials(self, batch: Sequence[tuple[Candidate, Candidate]]) -> Iterator[Job]:
        for method, trial in batch:
            if self._known_before(trial, 0):
                continue
            left = self._left()
            # On all folds, should it be better.
            if self._seconds(method.name) * max(1, len(self.folds) / self._lanes) > left:
                del self.candidates[trial.name]
                continue
            yield self._job(trial, 0, left)


def in_turn(ranked: Sequence[str], seconds: Callable[[str], float]) -> list[str]:
    """Candidates in the order in which they get their other folds: the best, then the quickest first.

    So most of them are complete when time is short; one that lacks a fold is of no use.

    >>> from equifuse.auto.search import in_turn
    >>> in_turn(["gmu", "deq", "linear"], {"gmu": 7.0, "deq": 10.0, "linear": 1.0}.__getitem__)
    ['gmu', 'linear', 'deq']

    Args:
        ranked: names, the best first.
        seconds: of a fold of each.
    """
    return [*ranked[:1], *sorted(ranked[1:], key=seconds)]


def spent(folder: Path) -> float:
    """Seconds that a search had taken when it was interrupted."""
    path = folder / SPENT
    return float(read_json(path)["seconds"]) if path.is_file() else 0.0


def _folder_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "+-" else "_" for c in name)
