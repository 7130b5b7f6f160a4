"""What comes after a search: models are put together, measured, written, and told in words."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equifuse.auto.judging import as_expected
from equifuse.auto.pieces import Piece
from equifuse.auto.portfolio import INSTEAD
from equifuse.auto.result import ENSEMBLE, AutoResult, Entry
from equifuse.auto.search import Plan, Search
from equifuse.auto.verdict import report
from equifuse.data.loaders import batches_of
from equifuse.errors import ConvergenceWarning
from equifuse.files import write_json, write_text, write_yaml
from equifuse.model import Ensemble, FusionModel
from equifuse.runs.ensembles import Bag, finish_ensemble
from equifuse.runs.folder import CONFIG, METRICS, SPLIT, split_columns
from equifuse.runs.metrics import RunMetrics
from equifuse.runs.output import write_columns
from equifuse.runs.prepare import Prepared, class_weights, resolved_for
from equifuse.runs.settings import RECORD
from equifuse.runs.training import record_of
from equifuse.training.balancing import Balancer

# Within a run folder: what was found, in words, the leaderboard, and the best single method's run.
FOUND, WORDS, BOARD, BEST = "auto.json", "auto.txt", "leaderboard.csv", "best"


class Finishing:
    """What comes after a search: the ensemble, the best method alone, the leaderboard, the report.

    Args:
        plan: of the search.
        found: the search.
        out: the run folder; None where there is none.
    """

    def __init__(self, plan: Plan, found: Search, out: Path | None = None) -> None:
        self.plan, self.found = plan, found
        self.out = plan.folder if out is None else out
        self.judge = found.judge.only(found.known())
        self.task = found.judge.task
        self.weights = self._affordable(found.weights())
        self.best = next(iter(self.weights))
        self.outputs = {name: found.outputs(name) for name in self.weights}
        self.tests: dict[str, float | None] = {}
        self.expected_tests: dict[str, float | None] = {}
        self._models: dict[str, list[FusionModel]] = {}

    def in_memory(self) -> tuple[FusionModel, AutoResult]:
        """The ensemble and what was found, without a run folder and without a look at the test part."""
        used = [name for name, weight in self.weights.items() if weight > 0]
        return self._ensemble(used), self._result(self._without_each() if self._is_time_for_each() else {})

    def run(self) -> AutoResult:
        """Do all of it, as far as time allows; the run's own files come first and last."""
        without = self._without_each() if self._is_time_for_each() else {}
        for name in self.weights:
            if name != self.best and self._is_time(self._pass_of(name, self._tests)):
                self.tests[name], self.expected_tests[name] = self._tested(self._ensemble([name]))
        expected = bool(self.plan.base.expect_missing)
        alone = self._ensemble([self.best])
        metrics = self._write(self.out / BEST, alone, [self.best], self.found.outputs(self.best, False), lambda _: None)
        self.tests[self.best] = metrics.test.get(self.task.headline)
        if expected:
            self.expected_tests[self.best] = self._tested(alone, intact=False)[1]
        used = [name for name, weight in self.weights.items() if weight > 0]
        ensemble = self._ensemble(used)
        result: list[AutoResult] = []

        def complete(found: RunMetrics) -> None:
            self.tests[ENSEMBLE] = found.test.get(self.task.headline)
            if expected:
                self.expected_tests[ENSEMBLE] = self._tested(ensemble, intact=False)[1]
            result.append(self._result(without))
            self._write_result(result[0])

        if used == [self.best]:
            self._copy(metrics, complete)
        else:
            self._write(self.out, ensemble, used, self._averaged(used, False), complete)
        shutil.rmtree(self.plan.folder, ignore_errors=True)
        return result[0]

    @property
    def _count(self) -> int:
        return len(self.plan.dataset.modalities)

    @property
    def _tests(self) -> int:
        return len(self.plan.dataset.splits["test"])

    def _pass_of(self, name: str, rows: int) -> float:
        """Seconds to predict rows once by all models of a candidate."""
        return rows * sum(piece.predict_seconds for piece in self.found.models_of(name))

    def _needed(self, weights: Mapping[str, float]) -> float:
        """Seconds of what has to be done: both runs are measured, also without each modality and member by member."""
        used = [name for name, weight in weights.items() if weight > 0]
        both = [next(iter(weights)), *used]
        return sum(self._pass_of(name, self._tests) for name in both) * (self._count + 3)

    def _is_time(self, seconds: float) -> bool:
        return self.plan.budget.left(self.found.fixed + self._needed(self.weights)) > seconds

    def _is_time_for_each(self) -> bool:
        return self._is_time(self._pass_of(self.best, len(self.found.rows)) * self._count)

    def _affordable(self, weights: dict[str, float]) -> dict[str, float]:
        """Weights without the smallest shares where there is no time to measure all members."""
        while self.plan.budget.left(self._needed(weights)) < 0:
            shares = {name: weight for name, weight in weights.items() if weight > 0}
            if len(shares) < 2:
                break
            least = min(shares, key=lambda name: shares[name])
            total = 1 - weights[least]
            weights = {name: 0.0 if name == least else weight / total for name, weight in weights.items()}
        return weights

    def _models_of(self, name: str) -> list[FusionModel]:
        if name not in self._models:
            self._models[name] = [piece.member().model() for piece in self.found.models_of(name)]
        return self._models[name]

    def _ensemble(self, names: Sequence[str]) -> FusionModel:
        """The models of candidates as one, each with its candidate's share; of one alone, all the same."""
        models = [model for name in names for model in self._models_of(name)]
        if len(models) == 1:
            return models[0]
        each = [1.0 if len(names) == 1 else self.weights[name] / len(self._models_of(name)) for name in names]
        shares = [share for share, name in zip(each, names, strict=True) for _ in self._models_of(name)]
        return Ensemble(models, shares).eval()

    def _averaged(self, names: Sequence[str], expected: bool | None = None) -> Tensor:
        """What the ensemble of candidates is taken to say of rows that its models were not trained on."""
        outputs = torch.stack([self.found.outputs(name, expected) for name in names])
        shares = torch.tensor([self.weights[name] for name in names], dtype=outputs.dtype)
        return self.found.average(outputs, shares / shares.sum())

    def _tested(self, model: FusionModel, intact: bool = True) -> tuple[float | None, float | None]:
        """The headline metric on test, as it is and as it is expected to be."""
        test, expected = self.plan.dataset.splits["test"].labelled(), self.plan.base.expect_missing
        asked = [
            *([test] if intact else []),
            *([as_expected(test, expected, self.plan.base.seed, -1)] if expected else []),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = [self.task.evaluate(model, batches_of(rows)).metrics.get(self.task.headline) for rows in asked]
        return (found[0] if intact else None), (found[-1] if expected else None)

    def _without_each(self) -> dict[str, Tensor]:
        """What the best method's models say of rows that they were not trained on, without each modality in turn."""
        if self._count <= self.task.least_modalities:
            return {}
        pieces = self.found.models_of(self.best)
        models = dict(zip([piece.fold for piece in pieces], self._models_of(self.best), strict=True))

        def said(piece: Piece, missing: str) -> Tensor:
            rows = self.found.rows.select(self.found.rows_of(piece.fold))
            if self.plan.base.expect_missing:
                rows = as_expected(rows, self.plan.base.expect_missing, self.plan.base.seed, piece.fold)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return self.task.evaluate(models[piece.fold], batches_of(rows.without([missing]))).prediction

        return {m: self.found.assembled(pieces, partial(said, missing=m)) for m in self.plan.dataset.modalities}

    def _write(
        self,
        folder: Path,
        model: FusionModel,
        names: Sequence[str],
        unseen: Tensor,
        complete: Callable[[RunMetrics], None],
    ) -> RunMetrics:
        """Write a run folder."""
        dataset, count = self.plan.dataset, len(self.found.known())
        config = self.found.candidates[names[0]].config(self.plan.base)
        config = replace(config, ensemble=count if count > 1 else None)
        weights = class_weights(config, dataset)
        prepared = Prepared(dataset, model, self.task, Balancer(), weights, resolved_for(config, dataset))
        record = {**record_of(config, prepared), "auto": {name: self.weights[name] for name in names}}
        write_yaml(folder / CONFIG, {**config.to_dict(), RECORD: record})
        write_columns(folder / SPLIT, split_columns(dataset))
        pieces = [(name, piece.member()) for name in names for piece in self.found.models_of(name)]
        members, methods = [member for _, member in pieces], [name for name, _ in pieces]
        bag = Bag(members, self.found.rows, unseen)
        return finish_ensemble(
            folder, model, members, methods, prepared, bag, config, resume=True, keep=True, before_last=complete
        )

    def _copy(self, metrics: RunMetrics, complete: Callable[[RunMetrics], None]) -> None:
        """The best method's run is also the whole one where nothing adds to it; its metrics are last, as ever."""
        for path in (self.out / BEST).iterdir():
            if path.is_dir():
                shutil.copytree(path, self.out / path.name, dirs_exist_ok=True)
            elif path.name != METRICS:
                shutil.copy2(path, self.out / path.name)
        complete(metrics)
        write_json(self.out / METRICS, metrics.to_dict())

    def _result(self, without: Mapping[str, Tensor]) -> AutoResult:
        used = [name for name, weight in self.weights.items() if weight > 0]
        ensemble = self._averaged(used)
        said = report(self.judge, self.outputs, self.weights, ensemble, sum(map(len, self.judge.folds)), without)
        tested = self.tests.get(ENSEMBLE)
        if tested is not None:
            alone = self.tests[self.best]
            other = f", of {self.best} alone {alone:.4f}" if alone is not None and used != [self.best] else ""
            said.append(
                f"On the {self._tests:,} test rows, which decided nothing, {self.task.headline} is {tested:.4f}{other}."
            )
        said += self._untried()
        return AutoResult(
            path=str(self.out),
            task=self.task.name,
            headline=self.task.headline,
            selected_by=self.task.monitor,
            entries=[self._entry_of_all(ensemble), *map(self._entry, self._ranked())],
            report=said,
            seconds=self.plan.budget.elapsed(),
        )

    def _untried(self) -> list[str]:
        """What there was no time for, or failed."""
        late = [name for name, note in self.found.notes.items() if note.startswith("no time")]
        failed = [n for n in self.found.notes if any(p.failed for (c, _), p in self.found.pieces.items() if c == n)]
        said = [f"There was no time to finish {', '.join(late)}; a longer --time-limit has it."] if late else []
        for name in self.plan.lacking:
            instead = INSTEAD.get(name, "")
            stood = f"; {instead} was in its place" if instead in self.found.candidates else ""
            said.append(
                f"{name} was not tried, since it is not installed{stood}: pip install 'equifuse[{name}]' adds it."
            )
        return said + ([f"Failed: {', '.join(f'{n} ({self.found.notes[n]})' for n in failed)}."] if failed else [])

    def _ranked(self) -> list[str]:
        """All candidates that were tried: complete ones first, then by what is known of them."""
        others = [name for name in self.found.candidates if name not in self.weights]
        return [*self.weights, *sorted(others, key=self.found.mean_cost)]

    def _entry_of_all(self, outputs: Tensor) -> Entry:
        used = [name for name, weight in self.weights.items() if weight > 0]
        entries = [self._entry(name) for name in used]
        expected = bool(self.plan.base.expect_missing)
        return Entry(
            method=ENSEMBLE,
            models=sum(entry.models for entry in entries),
            loss=_finite(self.judge.sign * self.judge.cost(outputs)),
            score=self.judge.value(self._averaged(used, False), self.task.headline),
            expected_score=self.judge.value(outputs, self.task.headline) if expected else None,
            test=self.tests.get(ENSEMBLE),
            expected_test=self.expected_tests.get(ENSEMBLE),
            weight=1.0,
            fit_seconds=sum(entry.fit_seconds for entry in entries),
            predict_seconds=sum(entry.predict_seconds for entry in entries),
            megabytes=sum(entry.megabytes for entry in entries),
        )

    def _entry(self, name: str) -> Entry:
        found = self.found
        pieces = [piece for (other, _), piece in found.pieces.items() if other == name]
        good = [piece for piece in pieces if piece.failed is None]
        if name in self.weights:  # of some, folds that not all complete candidates have are left out
            good = found.models_of(name)
        folds = sorted(piece.fold for piece in good if piece.fold < len(found.folds))
        headline, expected = self.task.headline, bool(self.plan.base.expect_missing)
        return Entry(
            method=name,
            settings=dict(found.candidates[name].settings),
            models=len(good),
            loss=_finite(self.judge.sign * found.judge.cost(found.outputs(name), folds)) if good else None,
            score=found.judge.value(found.outputs(name, False), headline, folds) if good else None,
            expected_score=found.judge.value(found.outputs(name), headline, folds) if good and expected else None,
            test=self.tests.get(name),
            expected_test=self.expected_tests.get(name),
            weight=self.weights.get(name, 0.0),
            fit_seconds=sum(piece.seconds for piece in pieces),
            predict_seconds=1000 * sum(piece.predict_seconds for piece in good),
            megabytes=sum(piece.megabytes for piece in good),
            note=None if name in self.weights else found.notes.get(name),
        )

    def _write_result(self, result: AutoResult) -> None:
        header, rows = result.table(full=True)
        columns = list(zip(*rows, strict=True))
        write_columns(self.out / BOARD, {n: np.array(c, dtype=object) for n, c in zip(header, columns, strict=True)})
        write_text(self.out / WORDS, "\n".join(result.report) + "\n")
        write_json(self.out / FOUND, result.to_dict())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
