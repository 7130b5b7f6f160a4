"""Exported models in onnxruntime: how far from PyTorch, and how much faster.

    python benchmarks/export.py

Models with an MLP encoder of width 128 on each of three modalities of width 128, untrained, standardised, both sides
on 2 threads. An equilibrium has two rows: its evaluations written out, and the loop. The error is the largest absolute
difference of the logits from the model in PyTorch, with its own solver, on 256 samples, whole and with modalities
missing. Speed is PyTorch's time, without gradients, over onnxruntime's: the fastest of interleaved repetitions of each,
onnxruntime's threads not spinning in between, which would slow PyTorch's down.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch

import equifuse as ef
from equifuse.export import export_model
from tables import publish

WIDTH, CLASSES = 128, 10
BATCHES = (1, 256)
HEADER = ["fusion", "program", "error", "nodes", "MB", *(f"ms, batch {b} (speed)" for b in BATCHES)]


def build(fusion: str) -> ef.FusionModel:
    """An untrained model; ``gmf -> deq`` is GMF with an equilibrium behind it."""
    torch.manual_seed(0)
    name, _, backend = fusion.partition(" -> ")
    options = {"backend": backend} if backend else {}
    shapes = dict.fromkeys(("a", "b", "c"), WIDTH)
    model = ef.build_model(shapes, "classification", CLASSES, fusion=name, fusion_options=options)
    model.fit_preprocessing({m: torch.randn(512, WIDTH) for m in shapes})
    return model.eval()


def fastest(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """Milliseconds of each call, measured in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - start))
    return [min(found) for found in times]


def measure(fusion: str, loop: bool, seconds: float) -> list[str]:
    """A row of the table."""
    import onnx  # noqa: PLC0415

    model = build(fusion)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        example = {m: torch.randn(256, WIDTH) for m in model.modalities}
        description = export_model(model, path, example=example, loop=loop)
        nodes, size = len(onnx.load(path).graph.node), path.stat().st_size / 1e6
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    solver = description["solver"]
    program = "-" if solver is None else "loop" if loop else f"{solver['steps']} evaluations"
    cells = []
    for batch in BATCHES:
        inputs = {m: torch.randn(batch, WIDTH) for m in model.modalities}
        arrays = {m: x.numpy() for m, x in inputs.items()}

        def eager(inputs: dict[str, torch.Tensor] = inputs) -> object:
            with torch.inference_mode():
                return model(inputs)

        own, theirs = fastest([eager, lambda arrays=arrays: session.run(None, arrays)], seconds)  # type: ignore[misc]
        cells.append(f"{theirs:.2f} ({own / theirs:.1f})")
    return [fusion, program, f"{description['difference']:.1e}", str(nodes), f"{size:.2f}", *cells]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fusions", nargs="*", default=None, help="default: all, and gmf -> deq")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring per batch size")
    parser.add_argument("--threads", type=int, default=2, help="of either side")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for fusion in options.fusions or [*ef.available_fusions(), "gmf -> deq"]:
        for loop in (False, True) if fusion.endswith("deq") else (False,):
            rows.append(measure(fusion, loop, options.seconds))
            print(*rows[-1], sep=" | ", flush=True)
    publish(Path("runs/export"), HEADER, rows)


if __name__ == "__main__":
    main()
