"""A trained model as a file that runs without this library."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from equifuse.errors import ConvergenceWarning, DataError, EquifuseError, InputError, UnknownNameError
from equifuse.export import onnx, program
from equifuse.export.description import ExportDescription, ExportedExamples, ExportedSolver
from equifuse.export.graph import (
    Examples,
    InferenceGraph,
    check_exportable,
    choose_steps,
    largest_error,
    make_examples,
    record,
)
from equifuse.files import atomic, refuse_existing
from equifuse.model import FusionModel
from equifuse.solve import StaticAnderson

_FORMAT = 1
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
# The file's outputs may differ from those of the same graph in PyTorch by this share of the largest.
_CLOSE = {torch.float64: 1e-9}
_CLOSE_ELSE = 1e-4


def export_model(
    model: FusionModel,
    out: str | os.PathLike[str],
    *,
    format: str | None = None,
    example: Mapping[str, Tensor] | None = None,
    present: Mapping[str, Tensor] | None = None,
    lengths: Mapping[str, Tensor] | None = None,
    masks: bool = True,
    steps: int | None = None,
    loop: bool = False,
    memory: int = 10,
) -> ExportDescription:
    """Write a model, with preprocessing and encoders, as a file that runs without this library.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> made = export_model(model, "model.pt2")
    >>> program = torch.export.load("model.pt2").module()
    >>> inputs = {"a": torch.randn(8, 3), "b": torch.randn(8, 4)}
    >>> present = {"a": torch.ones(8, dtype=torch.bool), "b": torch.ones(8, dtype=torch.bool)}
    >>> torch.allclose(program(inputs, present, {})["prediction"], model(inputs).prediction, atol=1e-5)
    True

    Args:
        model: the trained model; it is not changed.
        out: file to create: ``.onnx`` or ``.pt2``.
        format: "onnx" or "torch"; default by the suffix.
        example: a few samples of every modality ``(B, *shape)``, at least 2, to choose the number of steps and to check
            the file with; default 64 random ones, with the means and deviations of the training part.
        present: modality name -> bool ``(B,)``, which examples have it; default all.
        lengths: modality name -> int64 ``(B,)``, numbers of valid steps of the examples' sequences; default all.
        masks: whether the program has inputs for presence; default True.
        steps: evaluations of each part of the equilibrium; default chosen as below. With ``loop`` the largest number.
        loop: solve in a loop (``torch.while_loop``, a prototype in PyTorch; an ONNX ``Loop``) that ends when all
            samples of a batch have converged, at the latest after the fusion's ``solver.max_steps``. The file is
            smaller, but not every runtime has loops.
        memory: of the solver, ≥ 0; default 10; 0 is plain iteration.

    Returns:
        The description that is stored in the file; :func:`describe` reads it back. ``error`` is the largest absolute
        difference of the first output between the file and the same steps in PyTorch, ``difference`` between the file
        and the model with its own solver.

    Raises:
        OutputExistsError: ``out`` exists.
        UnknownNameError: an unknown format or modality.
        InputError: an option does not fit, the extra for ONNX is not installed, an encoder cannot be exported, or the
            equilibrium is not reached on the examples.
        EquifuseError: the file's outputs differ from PyTorch's; it is not written.

    The program: the batch size and the length of sequences are free. Inputs are named by modality, in the model's
    order, ``(B, *shape)``; then ``present_<modality>``, bool ``(B,)``, which ONNX files do not require (default: all
    present), and ``length_<modality>``, int64 ``(B,)``, for sequences. Inputs of absent modalities may hold anything.
    The first output is ``logits``, ``embedding`` or ``prediction`` ``(B, K)``, by the task; a fusion that solves for an
    equilibrium also has ``residual`` ``(B,)`` and ``converged``, bool ``(B,)``.

    A GMF is written in its folded form, which is exact. An equilibrium is solved with
    :class:`~equifuse.solve.StaticAnderson` to the solver's own tolerance, in as many evaluations as every example
    needs, with and without modalities, and a quarter more. The file is compared with PyTorch before it is put in place.
    """
    path = Path(out)
    kind = _kind(path, format)
    refuse_existing(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder")
    versions = {"torch": str(torch.__version__), **(onnx.require() if kind == "onnx" else {})}
    check_exportable(model)
    examples = make_examples(model, example, present, lengths, masks=masks)
    names = onnx.input_names(examples)
    sets = [examples, examples.with_holes()] if masks else [examples]
    graph = InferenceGraph(model)
    solver = _prepare_solver(graph, sets, steps, loop, memory)
    outputs = [graph.outputs(some) for some in sets]
    recorded = record(graph, sets[-1])
    file: program.Program
    if kind == "onnx":
        file = onnx.OnnxProgram(recorded, examples, list(outputs[0]))
    else:
        file = program.TorchProgram(recorded)
    description = ExportDescription(
        format=_FORMAT,
        versions={"equifuse": _own_version(), **versions},
        task=model.task,
        classes=None if model.classes is None else list(model.classes),
        fusion=model.fusion.name,
        modalities={m: list(x.shape[1:]) for m, x in examples.inputs.items()},
        sequences=list(examples.lengths),
        features={m: list(feature_names) for m, feature_names in model.features.items()},
        columns={m: [column.stored() for column in columns] for m, columns in model.schema.items()},
        inputs=list(names),
        outputs=list(outputs[0]),
        examples=ExportedExamples(len(examples), examples.made_up),
        solver=None if solver is None else _achieved(solver, outputs),
        error=_checked(file, graph, sets, outputs),
        difference=_difference(file, model, sets, graph.output),
    )
    with atomic(path) as staging:
        file.write(staging, description.to_dict())
    return description


def describe(path: str | os.PathLike[str]) -> ExportDescription:
    """Read the description that :func:`export_model` stored in a file.

    >>> model = ef.build_model({"a": 3, "b": 4}, "regression", 1, fusion="mean").eval()
    >>> export_model(model, "model.pt2") == describe("model.pt2")
    True

    Args:
        path: the file.

    Raises:
        DataError: there is no such file, or :func:`export_model` did not write it.
        InputError: a file of another kind, or the extra for ONNX is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    onnx_file = _kind(path, None) == "onnx"
    return ExportDescription.from_dict(onnx.read_description(path) if onnx_file else program.read_description(path))


def _kind(path: Path, wanted: str | None) -> str:
    """The format of a path, by its suffix, which must agree with the wanted format."""
    if wanted is not None and wanted not in SUFFIXES:
        raise UnknownNameError("format", wanted, SUFFIXES)
    found = next((kind for kind, suffix in SUFFIXES.items() if suffix == path.suffix), None)
    if found is None:
        raise InputError(f"{path}: end the name in {' or '.join(SUFFIXES.values())}")
    if wanted not in (None, found):
        raise InputError(f"{path}: format {wanted!r} goes with {SUFFIXES[str(wanted)]}")
    return found


def _own_version() -> str:
    try:
        return version("equifuse")
    except PackageNotFoundError:
        return "0+unknown"


def _prepare_solver(
    graph: InferenceGraph, sets: list[Examples], steps: int | None, loop: bool, memory: int
) -> StaticAnderson | None:
    """Give the graph a solver with enough steps; None if it solves nothing."""
    if not graph.equilibria:
        if loop or steps is not None:
            raise InputError("this fusion solves for no equilibrium; leave out steps and loop")
        return None
    if loop and not hasattr(torch, "while_loop"):
        raise InputError(f"PyTorch {torch.__version__} has no loops to export; leave out loop")
    tol = min(fusion.solver.tol for fusion in graph.equilibria)
    most = max(fusion.solver.max_steps for fusion in graph.equilibria) if steps is None else steps
    solver = StaticAnderson(tol=tol, max_steps=most, memory=memory, loop=loop)
    if steps is None and not loop:
        solver = replace(solver, max_steps=choose_steps(graph, sets, solver))
    for fusion in graph.equilibria:
        fusion.solver = solver
    return solver


def _achieved(solver: StaticAnderson, outputs: list[dict[str, Tensor]]) -> ExportedSolver:
    """The convergence of the examples' solves; warns once if some did not converge."""
    converged = torch.cat([found["converged"] for found in outputs]).double().mean().item()
    residual = torch.cat([found["residual"] for found in outputs]).max().item()
    if converged < 1:
        warnings.warn(
            f"{1 - converged:.1%} of the examples do not converge in {solver.max_steps} evaluations (largest relative "
            f"residual {residual:.1e}, tolerance {solver.tol:g}); the program says so of each sample",
            ConvergenceWarning,
            stacklevel=3,
        )
    return ExportedSolver(solver.max_steps, solver.loop, solver.memory, solver.tol, converged, residual)


def _checked(
    file: program.Program, graph: InferenceGraph, sets: list[Examples], outputs: list[dict[str, Tensor]]
) -> float:
    """The largest difference between a file and the same graph in PyTorch.

    Raises:
        EquifuseError: it is more than rounding.
    """
    error = largest_error(file, graph.outputs, sets, graph.output)
    found = [each[graph.output] for each in outputs]
    bound = _CLOSE.get(found[0].dtype, _CLOSE_ELSE) * max(1.0, *(float(each.abs().max()) for each in found))
    if not error <= bound or not math.isfinite(bound):
        raise EquifuseError(
            f"the exported program's output differs from PyTorch's by {error:.1e} on the examples; it was not written"
        )
    return error


def _difference(file: program.Program, model: FusionModel, sets: list[Examples], output: str) -> float:
    """The largest difference between a file and the model as it is, with its own solver."""
    own = copy.deepcopy(model).cpu().eval()

    def predict(some: Examples) -> dict[str, Tensor]:
        return {output: own(some.inputs, some.present, lengths=some.lengths).prediction}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return largest_error(file, predict, sets, output)
