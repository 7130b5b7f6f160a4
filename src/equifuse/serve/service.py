"""What a run answers: the work behind every path, without HTTP."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic_core import to_json

import equifuse
from equifuse.data import Split
from equifuse.data.loaders import batches_of
from equifuse.encoders.preprocessed import takes_lengths
from equifuse.errors import ConvergenceWarning, UnknownNameError
from equifuse.explain import evaluate_coalitions
from equifuse.explain.targets import explained, value_of
from equifuse.extras import require
from equifuse.runs.folder import PathLike, load_run
from equifuse.runs.output import arrow_table
from equifuse.runs.predict import predict_split
from equifuse.serve.limits import Limits
from equifuse.serve.request_parsing import rows_of_json, rows_of_parquet
from equifuse.serve.schema import Description, Explained, Health, Modality, RequestFormat
from equifuse.tasks import Columns
from equifuse.tasks.base import output_names

JSON, PARQUET = "application/json", "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Answer:
    """The body of a response, and what is counted of it.

    Attributes:
        content: the body.
        media_type: of the body.
        rows: that were predicted.
        unconverged: how many of them did not converge.
    """

    content: bytes
    media_type: str
    rows: int = 0
    unconverged: int = 0


class Service:
    """A trained run, asked by one thread at a time.

    Args:
        run: the run folder.
        explain: whether there are explanations.
        limits: of a request.

    Raises:
        DataError: no finished run there.
    """

    def __init__(self, run: PathLike, explain: bool, limits: Limits) -> None:
        self.run, self.limits = load_run(run), limits
        model = self.run.model
        self.values = self.run.task.values if explain else ()
        self.outputs = output_names(model.classes, model.n_outputs or 0)
        sequences = [m for m in model.modalities if takes_lengths(model.encoders[m])]
        self.predicted = RequestFormat(model.shapes, sequences, limits.max_rows, model.schema)
        self.explained = RequestFormat(model.shapes, sequences, limits.max_explained, model.schema)

    @cached_property
    def example(self) -> Columns:
        """The columns of a prediction, here of a row of zeros."""
        shapes = self.run.model.shapes
        return predict_split(self.run, Split({m: np.zeros((1, *s), np.float32) for m, s in shapes.items()}))

    def predict(self, body: bytes, sent: str, wanted: str) -> Answer:
        """Predict the rows of a body.

        Args:
            body: JSON or Parquet.
            sent: its media type.
            wanted: media type of the answer.

        Raises:
            Refusal: the body is damaged or too large.
            EquifuseError: the rows do not fit the model.
        """
        split = self._rows(body, sent, self.predicted)
        columns = predict_split(self.run, split)
        unconverged = int((~columns["converged"]).sum()) if "converged" in columns else 0
        if wanted == PARQUET:
            return Answer(_parquet(columns), PARQUET, len(split), unconverged)
        content = {"rows": len(split), "columns": {name: column.tolist() for name, column in columns.items()}}
        return Answer(_json(content), JSON, len(split), unconverged)

    def explain(self, body: bytes, sent: str, options: Mapping[str, str]) -> Answer:
        """Shapley contributions of the modalities to each row of a body.

        Args:
            body: JSON or Parquet.
            sent: its media type.
            options: ``value`` and ``output``, as :meth:`equifuse.explain.CoalitionOutputs.per_sample` has them, but
                the output by its name.

        Raises:
            Refusal: the body is damaged or too large.
            EquifuseError: the rows do not fit the model, or an option does not fit the task.
        """
        run = self.run
        for name in options:
            if name not in ("value", "output"):
                raise UnknownNameError("option", name[:100], ("value", "output"))
        value, output = value_of(run.task, options.get("value")), self._output(options.get("output"))
        split = self._rows(body, sent, self.explained)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the answer has the share
            found = evaluate_coalitions(run.model, run.task, batches_of(split))
        each = found.per_sample(run.task, value, output)
        chosen = explained(run.task, found.outputs[:, -1].double(), output)
        content = Explained.model_construct(
            rows=len(split),
            value=value,
            output=[self.outputs[k] for k in chosen.tolist()],
            empty=each.empty.tolist(),
            full=each.full.tolist(),
            contributions={m: x.tolist() for m, x in each.values.items()},
            errors=None if each.errors is None else {m: x.tolist() for m, x in each.errors.items()},
            converged=found.converged,
        )
        return Answer(_json(content.model_dump()), JSON, len(split))

    def _output(self, name: str | None) -> int | None:
        if name is None:
            return None
        if name not in self.outputs:
            raise UnknownNameError("output", name[:100], self.outputs)
        return self.outputs.index(name)

    def _rows(self, body: bytes, sent: str, form: RequestFormat) -> Split:
        if sent == JSON:
            return rows_of_json(body, form, self.limits)
        return rows_of_parquet(body, form, self.run.model.features, self.limits)

    def describe(self) -> Description:
        """The model."""
        run, model = self.run, self.run.model
        modalities = {
            m: Modality(
                shape=[len(model.schema[m])] if m in model.schema else list(shape),
                sequence=m in self.predicted.sequences,
                features=list(model.features[m]) if m in model.features else None,
                columns=[column.stored() for column in model.schema[m]] if m in model.schema else None,
            )
            for m, shape in model.shapes.items()
        }
        return Description(
            name=run.path.resolve().name,
            data=run.record["data"]["name"],
            task=run.task.name,
            fusion=run.config.fusion,
            classes=None if model.classes is None else list(model.classes),
            modalities=modalities,
            columns=[name for name in self.example if name != "row"],
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            explained=list(self.values),
            limits=asdict(self.limits),
        )

    def health(self) -> Health:
        """That there is a model, and which."""
        versions = {"equifuse": equifuse.__version__, "torch": torch.__version__, "python": platform.python_version()}
        run = self.run
        name = run.path.resolve().name
        return Health(status="ok", model=name, task=run.task.name, fusion=run.config.fusion, versions=versions)


def _json(content: Any) -> bytes:
    # JSON has no NaN and no infinity.
    return to_json(content, inf_nan_mode="null")


def _parquet(columns: Columns) -> bytes:
    pa = require("train", "pyarrow", "reading and writing tables")
    parquet = require("train", "pyarrow.parquet", "reading and writing tables")

    sink = pa.BufferOutputStream()
    parquet.write_table(arrow_table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
