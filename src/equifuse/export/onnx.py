"""A recorded graph as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse.errors import DataError, InputError
from equifuse.export.graph import Examples, quiet
from equifuse.export.program import DESCRIPTION, Program

# A file of the format is one message, which holds less than this many bytes.
_LARGEST = 2**31
PRESENT, LENGTH = "present_", "length_"


def require() -> dict[str, str]:
    """The versions of what this needs.

    Raises:
        InputError: the extra is not installed.
    """
    try:
        import onnx  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415
        import onnxscript  # noqa: PLC0415
    except ImportError:
        raise InputError("ONNX needs an extra; run pip install 'equifuse[onnx]'") from None
    return {module.__name__: module.__version__ for module in (onnx, onnxscript, onnxruntime)}


def input_names(examples: Examples) -> list[str]:
    """Modalities, ``present_<modality>`` and ``length_<modality>``, in the order of the graph.

    Raises:
        InputError: a modality's name is that of another's mask.
    """
    names = [*examples.inputs, *(PRESENT + m for m in examples.present), *(LENGTH + m for m in examples.lengths)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two inputs would be named {twice[0]!r}; rename the modality")
    return names


class OnnxProgram(Program):
    """A recorded graph translated to ONNX; runs in onnxruntime on the CPU.

    Args:
        recorded: the graph.
        examples: what it was recorded with, for the names of its inputs.
        outputs: the names of its outputs, in order.
        threads: of onnxruntime for one operator; default its own choice.

    Raises:
        InputError: it is too large for one file, or has an operator that ONNX has not.
    """

    def __init__(
        self, recorded: torch.export.ExportedProgram, examples: Examples, outputs: list[str], threads: int = 0
    ) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in recorded.state_dict.values())
        if size >= _LARGEST:
            raise InputError(f"the model has {size / 2**30:.1f} GiB, an ONNX file holds less than 2; use a .pt2 file")
        names = input_names(examples)
        try:
            with quiet():
                found = torch.onnx.export(
                    recorded, dynamo=True, input_names=names, output_names=outputs, external_data=False, verbose=False
                )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"the model cannot be exported to ONNX: {str(error).splitlines()[0]}") from error
        assert found is not None
        _make_optional(found.model.graph, examples)
        for node in found.model.graph.all_nodes():
            node.metadata_props.clear()  # where in whose source files it comes from is nobody's business
        self._program, self._outputs = found, outputs
        self._session = _session(found.model_proto.SerializeToString(), threads)

    def __call__(self, examples: Examples) -> dict[str, Tensor]:
        """Run it."""
        return run(self._session, examples)

    def write(self, path: Path, description: dict[str, Any]) -> None:
        """Store it; the description is among the model's metadata."""
        self._program.model.metadata_props[DESCRIPTION] = json.dumps(description)
        self._program.save(path, external_data=False)


def _session(model: bytes | Path, threads: int = 0) -> Any:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns of inputs with a default, which are meant
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: Any, examples: Examples) -> dict[str, Tensor]:
    """The outputs of a session of onnxruntime by name; masks that the examples do not have are left out."""
    tensors = [tensor for part in examples.arguments() for tensor in part.values()]
    named = {name: tensor.numpy() for name, tensor in zip(input_names(examples), tensors, strict=True)}
    names = [output.name for output in session.get_outputs()]
    return {name: torch.from_numpy(value) for name, value in zip(names, session.run(names, named), strict=True)}


def _make_optional(graph: Any, examples: Examples) -> None:
    """Let masks be left out: as inputs with a default, ``[True]``, stretched to the batch."""
    import onnx_ir as ir  # noqa: PLC0415

    if not examples.present:
        return
    inputs = {value.name: value for value in graph.inputs}
    first = graph[0]
    batch = ir.node("Shape", [inputs[next(iter(examples.inputs))]], attributes={"start": 0, "end": 1})
    batch.outputs[0].name = "batch_size"
    graph.insert_before(first, batch)
    for m in examples.present:
        name = PRESENT + m
        inside = inputs[name]
        default = ir.tensor(np.array([True]), name=name)
        outside = ir.Value(name=name, shape=ir.Shape([None]), type=inside.type, const_value=default)
        stretched = ir.node("Expand", [outside, batch.outputs[0]])
        found = stretched.outputs[0]
        found.name, found.shape, found.type = f"{name}_of_all", inside.shape, inside.type
        inside.replace_all_uses_with(found)
        graph.inputs[graph.inputs.index(inside)] = outside
        graph.initializers[name] = outside
        graph.insert_before(first, stretched)


def read_description(path: Path) -> dict[str, Any]:
    """The description inside of an ONNX file.

    Raises:
        InputError: the extra is not installed.
        DataError: it is none, or was not written by :func:`equifuse.export.export_model`.
    """
    require()
    import onnx  # noqa: PLC0415
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        stored = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        found: dict[str, Any] = json.loads(stored[DESCRIPTION])
    except (DecodeError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not an exported model: {error!r}") from None
    return found
