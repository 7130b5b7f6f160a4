"""What a run answers: the work behind every path, without HTTP and without processes."""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

import equifuse
from equifuse.data import Split
from equifuse.data.external import read_rows
from equifuse.data.lazy import Features
from equifuse.data.loaders import batches_of
from equifuse.data.missing_codes import MissingCodes
from equifuse.encoders.preprocessed import takes_lengths
from equifuse.errors import ConvergenceWarning, EquifuseError, InputError, UnknownNameError
from equifuse.explain import embeddings, evaluate_coalitions
from equifuse.explain.targets import explained, value_of
from equifuse.extras import require
from equifuse.runs.certainty import Certainty, names_beside
from equifuse.runs.folder import PathLike, load_run
from equifuse.runs.output import arrow_table
from equifuse.runs.predict import predict_split
from equifuse.serve.limits import Limits, Refusal, one_line
from equifuse.serve.messages import CSV, JSON, PARQUET, Answer, Loaded, Question, Served
from equifuse.serve.request_parsing import rows_of_csv, rows_of_json, rows_of_parquet
from equifuse.serve.schema import Embedded, Explained, RequestFormat, json_schema, predicted
from equifuse.tasks import Columns
from equifuse.tasks.base import output_names

# What may be asked for beside predictions, and the times of one question.
_BESIDE, _MOST_TIMES = ("coverage", "survival_at"), 100
_log = logging.getLogger("equifuse.serve")


class Services:
    """Trained runs by name, asked by one thread at a time.

    Args:
        runs: name -> run folder.
        explain: whether there are explanations.
        limits: of a request.

    Raises:
        DataError: one of them is no finished run.
    """

    def __init__(self, runs: Mapping[str, PathLike], explain: bool, limits: Limits) -> None:
        self._each = {name: Service(run, explain, limits, name) for name, run in runs.items()}

    def describe(self) -> Loaded:
        """What there is to ask."""
        versions = {
            "equifuse": equifuse.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        return Loaded({name: service.describe() for name, service in self._each.items()}, versions)

    def answer(self, model: str, questions: Sequence[Question]) -> list[Answer]:
        """The answers to some requests for a model; a mistake of the client's, or of ours, is one of them."""
        return self._each[model].answer(questions)


class Service:
    """A trained run, asked by one thread at a time.

    Args:
        run: the run folder.
        explain: whether there are explanations.
        limits: of a request.
        name: of the model; default that of the folder.

    Raises:
        DataError: no finished run there.
    """

    def __init__(self, run: PathLike, explain: bool, limits: Limits, name: str | None = None) -> None:
        self.run, self.limits = load_run(run), limits
        self.name = name or self.run.path.resolve().name
        model = self.run.model
        self.values = self.run.task.values if explain else ()
        self.outputs = output_names(model.classes, model.n_outputs or 0)
        self.sequences = [m for m in model.modalities if takes_lengths(model.encoders[m])]
        wanted = self.run.wanted()
        codes = MissingCodes(tuple(wanted.reading.get("na", ())))
        self.predicted, self.explained = (
            RequestFormat(model.shapes, self.sequences, most, model.schema, model.features, codes, wanted.id)
            for most in (limits.max_rows, limits.max_explained)
        )

    @cached_property
    def example(self) -> Columns:
        """The columns of a prediction, here of a row of zeros."""
        shapes = self.run.model.shapes
        return predict_split(self.run, Split({m: np.zeros((1, *s), np.float32) for m, s in shapes.items()}))

    @cached_property
    def certainty(self) -> Certainty:
        """What intervals and survival are from: the run's data, which are read when first asked for."""
        return Certainty(self.run)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to some requests: predictions are made together, so that equilibria are solved for at once."""
        answers: list[Answer | None] = [None] * len(questions)
        rows: dict[int, Split] = {}
        for i, question in enumerate(questions):
            if question.kind == "predict":
                found = _guarded(question, self._asked_rows, question, self.predicted, _BESIDE)
                if isinstance(found, Split) and any(name in question.options for name in _BESIDE):
                    answers[i] = _guarded(question, self._predicted_beside, question, found)
                elif isinstance(found, Split):
                    rows[i] = found
                else:
                    answers[i] = found
            else:
                answers[i] = _guarded(question, self._others[question.kind], question)
        alone: list[Columns | None] = [None] * len(rows)
        columns = self._predict_together(list(rows.values())) or alone
        for (i, split), some in zip(rows.items(), columns, strict=True):
            question = questions[i]
            answers[i] = _guarded(question, self._predicted, question, split, some)
        return [answer for answer in answers if answer is not None]

    @property
    def _others(self) -> dict[str, Any]:
        return {"explain": self._explain, "embed": self._embed}

    def _predict_together(self, splits: list[Split]) -> list[Columns | None] | None:
        """The columns of each; None where each is to be predicted alone, as something is wrong or does not fit."""
        if len(splits) < 2 or self.sequences:
            return None
        try:
            joint = predict_split(self.run, _joined(splits, self.run.model.shapes))
        except Exception:  # whose fault it is shows when each is predicted alone
            return None
        found: list[Columns | None] = []
        start = 0
        for split in splits:
            part = slice(start, start := start + len(split))
            own: Columns = {"row": np.arange(len(split))} if split.ids is None else {"id": split.ids}
            found.append(own | {name: column[part] for name, column in joint.items() if name not in ("row", "id")})
        return found

    def _predicted(self, question: Question, split: Split, columns: Columns | None) -> Answer:
        """The columns of ``equifuse predict`` as the client wants them."""
        columns = predict_split(self.run, split) if columns is None else columns
        unconverged = int((~columns["converged"]).sum()) if "converged" in columns else 0
        if question.wanted == PARQUET:
            return Answer(200, _parquet(columns), PARQUET, len(split), unconverged)
        content = {"rows": len(split), "columns": {name: column.tolist() for name, column in columns.items()}}
        return Answer(200, msgspec.json.encode(content), JSON, len(split), unconverged)

    def _predicted_beside(self, question: Question, split: Split) -> Answer:
        """The columns with intervals, sets or survival beside them."""
        coverage, times = ([_number(name, text) for text in question.options.get(name, [])] for name in _BESIDE)
        if len(times) > _MOST_TIMES:
            raise InputError(f"survival_at is given {len(times)} times, the limit is {_MOST_TIMES}")
        beside = partial(self.certainty.columns, coverage=coverage[-1] if coverage else None, times=times)
        return self._predicted(question, split, predict_split(self.run, split, beside=beside))

    def _explain(self, question: Question) -> Answer:
        """Shapley contributions of the modalities to each row.

        Raises:
            Refusal: the body is damaged or too large.
            EquifuseError: the rows do not fit the model, or an option does not fit the task.
        """
        run, options = self.run, question.options
        if not self.values:
            raise Refusal(404, "there are no explanations of this model")
        split = self._asked_rows(question, self.explained, ("value", "output"))
        value, output = value_of(run.task, _last(options, "value")), self._output(_last(options, "output"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the answer has the share
            found = evaluate_coalitions(run.model, run.task, batches_of(split))
        each = found.per_sample(run.task, value, output)
        chosen = explained(run.task, found.outputs[:, -1].double(), output)
        content = Explained(
            rows=len(split),
            value=value,
            output=[self.outputs[k] for k in chosen.tolist()],
            empty=each.empty.tolist(),
            full=each.full.tolist(),
            contributions={m: x.tolist() for m, x in each.values.items()},
            errors=None if each.errors is None else {m: x.tolist() for m, x in each.errors.items()},
            converged=found.converged,
        )
        return Answer(200, msgspec.json.encode(content), JSON, len(split))

    def _embed(self, question: Question) -> Answer:
        """The vectors that the model makes of each row.

        Raises:
            Refusal: the body is damaged or too large.
            EquifuseError: the rows do not fit the model.
        """
        split = self._asked_rows(question, self.predicted, ())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = embeddings(self.run.model, batches_of(split))
        content = Embedded(rows=len(split), vectors={name: x.tolist() for name, x in found.items()})
        return Answer(200, msgspec.json.encode(content), JSON, len(split))

    def _output(self, name: str | None) -> int | None:
        if name is None:
            return None
        if name not in self.outputs:
            raise UnknownNameError("output", name[:100], self.outputs)
        return self.outputs.index(name)

    def _asked_rows(self, question: Question, form: RequestFormat, options: Sequence[str]) -> Split:
        """The rows of a body, without the modalities that are not wanted.

        Raises:
            Refusal: the body is damaged or too large.
            UnknownNameError: an option or a modality that there is not.
            EquifuseError: the rows do not fit the model.
        """
        for name in question.options:
            if name not in (*options, "without"):
                raise UnknownNameError("option", name[:100], (*options, "without"))
        without = question.options.get("without", [])
        for m in without:
            if m not in self.run.model.shapes:
                raise UnknownNameError("modality", m[:100], self.run.model.shapes)
        split = self._rows(question, form)
        if not without:
            return split
        inputs = {m: x for m, x in split.inputs.items() if m not in without}
        if not inputs:
            raise InputError("no modality is left: all that were given are in 'without'")
        present = {m: mask for m, mask in split.present.items() if m in inputs}
        lengths = {m: steps for m, steps in split.lengths.items() if m in inputs}
        return Split(inputs, present, None, split.ids, lengths)

    def _rows(self, question: Question, form: RequestFormat) -> Split:
        body, run = question.whole(), self.run
        if question.sent == JSON:
            return rows_of_json(body, form, self.limits)
        if question.sent == CSV:
            return rows_of_csv(body, lambda path: read_rows(path, run.wanted()).split, self.limits, form.max_rows)
        return rows_of_parquet(body, form, run.model.features, self.limits)

    def describe(self) -> Served:
        """The model, and what its requests and answers look like."""
        run, model = self.run, self.run.model
        modalities = {
            m: {
                "shape": [len(model.schema[m])] if m in model.schema else list(shape),
                "sequence": m in self.sequences,
                "features": list(model.features[m]) if m in model.features else None,
                "columns": [column.stored() for column in model.schema[m]] if m in model.schema else None,
            }
            for m, shape in model.shapes.items()
        }
        description = {
            "name": self.name,
            "data": run.record["data"]["name"],
            "task": run.task.name,
            "fusion": run.config.fusion,
            "classes": None if model.classes is None else list(model.classes),
            "modalities": modalities,
            "columns": [name for name in self.example if name != "row"],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "explained": list(self.values),
            "limits": asdict(self.limits),
        }
        requests = {"predict": self.predicted.json_schema(), "embed": self.predicted.json_schema()}
        responses = {
            "predict": predicted(self.example, names_beside(run, list(self.example))),
            "embed": json_schema(Embedded),
        }
        if self.values:
            requests["explain"] = self.explained.json_schema()
            responses["explain"] = json_schema(Explained)
        beside = [*(["coverage"] * bool(run.task.conformal)), *(["survival_at"] * run.task.time_to_event)]
        return Served(description, requests, responses, list(self.values), list(self.outputs), beside)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} must be a number, got {text[:50]!r}") from None


def _last(options: Mapping[str, Sequence[str]], name: str) -> str | None:
    return options[name][-1] if name in options else None


def _guarded(question: Question, work: Any, *arguments: Any) -> Any:
    """What the work gives, or the answer that says why it gives nothing."""
    try:
        return work(*arguments)
    except Refusal as error:
        return problem(error.status, one_line(error))
    except EquifuseError as error:  # what the library found is of the rows sent
        return problem(422, one_line(error))
    except MemoryError:
        return problem(413, "the request needs more memory than there is; send fewer rows at a time")
    except Exception as error:
        if "can't allocate memory" in str(error):  # as PyTorch says it
            return problem(413, "the request needs more memory than there is; send fewer rows at a time")
        _log.exception("request %s failed", question.id)
        return problem(500, "internal error")


def problem(status: int, detail: str) -> Answer:
    """A refusal as an answer: one line."""
    return Answer(status, msgspec.json.encode({"detail": detail}))


def _joined(splits: Sequence[Split], shapes: Mapping[str, tuple[int, ...]]) -> Split:
    """Rows of several requests one after the other; what one of them does not have is missing in its rows."""
    inputs: dict[str, Features] = {}
    present: dict[str, NDArray[np.bool_]] = {}
    for m, shape in shapes.items():
        if not any(m in split.inputs for split in splits):
            continue
        pieces, here = [], []
        for split in splits:
            there = m in split.inputs
            x = np.asarray(split.inputs[m]) if there else np.full((len(split), *shape), np.nan, np.float32)
            pieces.append(x)
            here.append(split.present.get(m, np.full(len(split), there, dtype=bool)))
        inputs[m], present[m] = np.concatenate(pieces), np.concatenate(here)
    return Split(inputs, {m: mask for m, mask in present.items() if not mask.all()})


def _parquet(columns: Columns) -> bytes:
    pa = require("train", "pyarrow", "reading and writing tables")
    parquet = require("train", "pyarrow.parquet", "reading and writing tables")

    sink = pa.BufferOutputStream()
    parquet.write_table(arrow_table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def folder_of(run: PathLike) -> Path:
    """The run folder as it is found again when it is replaced."""
    return Path(run).absolute()
