"""What the equilibrium of deep-equilibrium fusion costs on a GPU, and whether it is right there; one command.

    python benchmarks/gpu.py --out runs/gpu                      # a GPU: less than four minutes, compilation included
    python benchmarks/gpu.py --device cpu --out runs/gpu-small   # tiny sizes on a CPU, to try the script

Four parts, of which ``--parts`` chooses:

- ``checks``: gradients of three solvers at tolerance 1e-4 against a float64 solve to 1e-10 on the CPU, tensor by
  tensor; inputs of four dtypes; autocast; a gradient scaler that must notice an infinite gradient;
- ``steps``: a training step, forward and backward, of ``Σ c ⊙ fused`` with a fixed random ``c``, weights N(0, 0.01²),
  unit gains and zero biases, tolerance 1e-4. ``graph`` is a whole step recorded as one CUDA graph, with at most 12
  evaluations per solve, which all are made; how many rows converge in them is in the table. ``launched`` is the
  library's default, ``captured`` replays recorded solves (``EQUIFUSE_KERNELS=recorded``), ``eager`` is the same by
  plain torch operations (``EQUIFUSE_KERNELS=reference``), ``torchdeq`` 0.1.0's Anderson on the joint map, relative
  tolerance 1e-4 (``pip install -e ".[peers]"``). ``products`` is a bound: the matrix products of the evaluations that
  ``captured`` made, alone. Errors are those of all gradients together, against float64;
- ``model``: a step of a whole model with AdamW, ``deq`` against ``concat`` with the same encoders; ``graph`` records it
  whole, with the library's default solvers;
- ``counts``: reads of the device by the host, and launches, of one training step.

Times are medians of events on the device, after warming up. A row that fails is recorded as such, the others go on;
after ``--seconds`` the rest is skipped, and said. ``gpu.md`` and ``gpu.json`` are written again after every row.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import equifuse as ef
from equifuse.files import write_json, write_text
from equifuse.kernels import VARIABLE
from equifuse.report.tables import to_markdown
from equilibrium import TOL, Case, Setting, error, setting, torchdeq
from machine import describe

Row = dict[str, Any]
# Fused state and gradients, in float64 to 1e-10.
Exact = tuple[Tensor, list[Tensor]]
GRAPH, LAUNCHED, CAPTURED, EAGER, PEER = "graph", "launched", "captured", "eager", "torchdeq"
# What the kernels of a contender are.
KERNELS = {GRAPH: "fused", LAUNCHED: "fused", CAPTURED: "recorded", EAGER: "reference", PEER: "reference"}
# Steps before the clock runs: a solve is recorded when it occurs for the second time. And steps measured.
WARM_UPS = {GRAPH: 3, LAUNCHED: 3, CAPTURED: 4, EAGER: 2, PEER: 1}
REPETITIONS = {GRAPH: 20, LAUNCHED: 10, CAPTURED: 20, EAGER: 5, PEER: 3}
# Evaluations per solve in a recorded step.
RECORDED_EVALUATIONS = 12


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    checked: Case
    cases: tuple[Case, ...]
    # Up to this batch, errors are measured, too: the exact solve of a large one takes long.
    exact_up_to: int
    model_batch: int
    model_dim: int
    model_count: int


def _case(batch: int, dim: int, count: int) -> Case:
    return Case(batch, dim, count, "published")


FULL = Sizes(
    checked=_case(64, 128, 3),
    cases=tuple(
        _case(*of)
        for of in (
            (64, 128, 3), (64, 64, 5), (16, 64, 2), (612, 128, 3), (612, 500, 3), (4096, 128, 3), (4096, 500, 3)
        )
    ),
    exact_up_to=612,
    model_batch=64,
    model_dim=64,
    model_count=5,
)  # fmt: skip
TINY = Sizes(_case(5, 64, 2), (_case(4, 32, 2), _case(8, 64, 3)), 612, 6, 8, 2)


# ---- what is solved ------------------------------------------------------------------------------------------------


def reference(case: Case, device: str) -> tuple[Tensor, list[Tensor]]:
    """Fused state and gradients, in float64 to 1e-10."""
    s = setting(case, device, torch.float64)
    s.fusion.solver = ef.Anderson(tol=1e-10, max_steps=500)
    s.fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=1e-10, max_steps=300))
    fused = s.fusion(s.inputs).fused
    return fused.detach(), s.gradients(fused)


def products_bound(
    case: Case, used: dict[str, float], device: str, seconds_of: Callable[[Tensor, Tensor], float]
) -> tuple[float, float]:
    """Seconds that the matrix products of a training step of equifuse take at the speed measured here: forward, all.

    Forward: two products per modality evaluation and two per fusion evaluation, and one for the gate's constant.
    Backward: two for the evaluation that is linearised, two per product with the transposed Jacobian, three for the
    pull to the weights, each of the modalities and of the fusion state; and two more for the gate's constant.
    """
    stacked = [torch.randn(case.count, case.batch, case.dim, device=device) for _ in range(2)]
    weights = torch.randn(case.count, case.dim, case.dim, device=device)
    times: dict[str, float] = {}
    with torch.no_grad():
        for label, a, b in (("modality", stacked[0], weights), ("fusion", stacked[0][0], weights[0])):
            times[label] = seconds_of(a, b)
    forward = 2 * used["modality_forward"] * times["modality"] + (2 * used["fusion_forward"] + 1) * times["fusion"]
    backward = (2 + 2 * used["modality_backward"] + 3) * times["modality"]
    backward += (2 + 2 * used["fusion_backward"] + 3 + 2) * times["fusion"]
    return forward, forward + backward


# ---- time, and who solves -------------------------------------------------------------------------------------


class Clock:
    """Milliseconds between marks, on the device."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"

    def mark(self) -> Any:
        """Now, in the device's order of work."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def laps(self, marks: list[Any]) -> list[float]:
        """Between each mark and the next."""
        if not self._cuda:
            return [1000 * (b - a) for a, b in pairwise(marks)]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in pairwise(marks)]

    def median(self, call: Callable[[], object], repetitions: int) -> float:
        """Of a call, each waited for."""
        found = []
        for _ in range(repetitions):
            begun = self.mark()
            call()
            found += self.laps([begun, self.mark()])
        return statistics.median(found)


def seconds_of_product(a: Tensor, b: Tensor) -> float:
    """What ``a @ b`` takes on the device, without what its launch takes on the host."""
    out, often = torch.matmul(a, b), 20

    def several() -> None:
        for _ in range(often):
            torch.matmul(a, b, out=out)

    run: Callable[[], object] = several
    if a.is_cuda:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            several()
        run = graph.replay
    run()
    return Clock(a.device.type).median(run, 5) / often / 1000


@contextmanager
def solved_by(who: str) -> Iterator[None]:
    """The kernels of a contender: the fused ones, or plain torch operations."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = KERNELS[who]
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def recorded(step: Callable[[], Any], device: str) -> tuple[Callable[[], object], Any]:
    """A step as one graph, and where its results lie; without CUDA the step itself."""
    if device != "cuda":
        return step, step()
    gc.collect()  # what is left of earlier steps would tie the gradients to another stream
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    return graph.replay, found


def forward_of(who: str, s: Setting) -> Callable[[], tuple[Tensor, Any]]:
    """The forward pass of a contender: the fused state, and its statistics if they are ours."""
    if who == PEER:
        return lambda: (torchdeq(s), None)

    def run() -> tuple[Tensor, Any]:
        out = s.fusion(s.inputs)
        return out.fused, out.stats

    return run


def recordings() -> int | None:
    """How many solves are recorded; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    from equifuse.kernels import capture  # noqa: PLC0415 - needs Triton

    return sum(one is not None for device in capture._devices.values() for one in device._recordings.values())


def forget() -> None:
    """Free what the cases before have left on the device."""
    if torch.cuda.is_available():
        from equifuse.kernels import capture  # noqa: PLC0415 - needs Triton

        capture.clear()
        torch.cuda.empty_cache()


def evaluations(stats: Any) -> dict[str, float]:
    """Evaluations of the slowest row: those that the whole batch makes."""
    modality = [part for name, part in stats.parts.items() if name != "fusion"]
    found: dict[str, float] = {}
    for label, parts in (("modality", modality), ("fusion", [stats.parts["fusion"]])):
        found[f"{label}_forward"] = max(int(part.steps.max()) for part in parts)
        found[f"{label}_backward"] = max(int(part.adjoint.steps.max()) for part in parts)
    return found


# ---- checks -----------------------------------------------------------------------------------------------------


def gradients(case: Case, device: str, who: str, exact: Exact, dtype: torch.dtype = torch.float32) -> Row:
    """Relative errors of the fused state and of each gradient; in float64 to 1e-10, too."""
    s = setting(case, device, dtype)
    names = [name for name, _ in s.fusion.named_parameters()] + list(s.inputs)
    with solved_by(who):
        for _ in range(WARM_UPS[who]):  # the last one counts, which is a replay
            if dtype == torch.float64:
                fused, found = reference(case, device)
            else:
                fused, _ = forward_of(who, s)()
                found = s.gradients(fused)
    state, wanted = exact
    each = {name: error([a.cpu()], [b]) for name, a, b in zip(names, found, wanted, strict=True)}
    worst = max(each, key=lambda name: each[name] if each[name] == each[name] else float("inf"))
    return {
        "fused state": error([fused.cpu()], [state]),
        "gradients together": error([g.cpu() for g in found], wanted),
        "worst tensor": worst,
        "its error": each[worst],
        "each": each,
    }


def _finite(tensors: list[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _compared(out: ef.FusionOutput, gradients: list[Tensor], exact: Tensor) -> Row:
    """What came out, how far the fused state is from ``exact``, and whether all of it is finite."""
    assert out.stats is not None
    return {
        "dtype": str(out.fused.dtype).removeprefix("torch."),
        "residual's": str(out.stats.residual.dtype).removeprefix("torch."),
        "converged": float(out.stats.converged.float().mean()),
        "from float32": error([out.fused], [exact.double()]),
        "finite": _finite([out.fused, *gradients]),
    }


def dtype(case: Case, device: str, of: torch.dtype) -> Row:
    """Inputs of a dtype: what comes out, how far from float32, and whether the gradients are finite."""
    s = setting(case, device)
    exact = s.fusion(s.inputs).fused.detach()
    if of == torch.float64:
        s.fusion.double()
    inputs = {m: x.detach().to(of).requires_grad_() for m, x in s.inputs.items()}
    for _ in range(3):  # the last is a replay
        out = s.fusion(inputs)
        found = list(torch.autograd.grad((out.fused * s.cotangent).sum(), [*s.fusion.parameters(), *inputs.values()]))
    return _compared(out, found, exact)


def autocast(case: Case, device: str, of: torch.dtype) -> Row:
    """Forward and backward inside and outside of autocast."""
    s = setting(case, device)
    exact = s.fusion(s.inputs).fused.detach()
    with torch.autocast(device, dtype=of):
        inputs = {m: F.linear(x, torch.eye(x.shape[1], device=device)) for m, x in s.inputs.items()}
        out = s.fusion(inputs)
    found = s.gradients(out.fused)
    return _compared(out, found, exact)


def scaler(case: Case, device: str) -> Row:
    """A gradient that overflows must reach the scaler, which halves its scale and leaves the weights as they are."""
    s = setting(case, device)
    optimiser = torch.optim.SGD(s.fusion.parameters(), lr=1e-3)
    scaling = torch.amp.GradScaler(device, init_scale=2.0**16)
    before = [p.detach().clone() for p in s.fusion.parameters()]
    scales, moved = [], []
    for factor in (1.0, 1.0, 1e38, 1.0):
        optimiser.zero_grad()
        scaling.scale(factor * (s.fusion(s.inputs).fused * s.cotangent).sum()).backward()
        scaling.step(optimiser)
        scaling.update()
        scales.append(scaling.get_scale())
        moved.append(any(not torch.equal(p, q) for p, q in zip(s.fusion.parameters(), before, strict=True)))
        before = [p.detach().clone() for p in s.fusion.parameters()]
    right = scales == [2.0**16, 2.0**16, 2.0**15, 2.0**15] and moved == [True, True, False, True]
    return {"right": right and _finite(before), "scales": scales, "weights moved": moved}


# ---- speed ------------------------------------------------------------------------------------------------------


def training_step(case: Case, device: str, who: str, exact: Exact | None) -> Row:
    """Times, evaluations and errors of a contender."""
    s, clock = setting(case, device), Clock(device)
    with solved_by(who):
        run = forward_of(who, s)
        begun = time.perf_counter()
        for _ in range(WARM_UPS[who]):
            fused, stats = run()
            found = s.gradients(fused)
        clock.laps([clock.mark()])  # waits
        row: Row = {"warm_up_seconds": time.perf_counter() - begun}
        if exact is not None:
            row |= {"state_error": error([fused], [exact[0]]), "gradient_error": error(found, exact[1])}
        if stats is not None:
            adjoints = [part.adjoint for part in stats.parts.values()]
            row |= evaluations(stats) | {"converged": float(stats.converged.float().mean())}
            row["adjoint_converged"] = min(float(a.converged.float().mean()) for a in adjoints)
        laps = []
        for _ in range(REPETITIONS[who]):
            marks = [clock.mark()]
            fused, _ = run()
            marks.append(clock.mark())
            s.gradients(fused)
            laps.append(clock.laps([*marks, clock.mark()]))
    row["forward_ms"] = statistics.median(forward for forward, _ in laps)
    row["step_ms"] = statistics.median(forward + backward for forward, backward in laps)
    if who == CAPTURED:
        row["recordings"] = recordings()
    return row


def recorded_step(case: Case, device: str, exact: Exact | None) -> Row:
    """Like :func:`training_step`, of a step recorded whole."""
    s, clock = setting(case, device), Clock(device)
    s.fusion.solver = replace(s.fusion.solver, max_steps=RECORDED_EVALUATIONS)
    s.fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=TOL, max_steps=RECORDED_EVALUATIONS))

    def step() -> tuple[ef.FusionOutput, list[Tensor]]:
        output = s.fusion(s.inputs)
        return output, s.gradients(output.fused)

    with solved_by(GRAPH):
        for _ in range(WARM_UPS[GRAPH]):
            step()
        replay, (output, found) = recorded(step, device)
        replay()
        assert output.stats is not None
        adjoints = [part.adjoint for part in output.stats.parts.values()]
        row: Row = {"converged": float(output.stats.converged.float().mean())}
        row["adjoint_converged"] = min(float(a.converged.float().mean()) for a in adjoints if a is not None)
        if exact is not None:
            row |= {"state_error": error([output.fused], [exact[0]]), "gradient_error": error(found, exact[1])}
        row["step_ms"] = clock.median(replay, REPETITIONS[GRAPH])
    return row


def products(case: Case, device: str, captured: Row) -> Row:
    """The products of the evaluations that ``captured`` made."""
    forward, both = products_bound(case, captured, device, seconds_of_product)
    return {"forward_ms": 1000 * forward, "step_ms": 1000 * both}


def model_of(kind: str, sizes: Sizes, device: str) -> Callable[[], object]:
    """A step of a model with small encoders."""
    torch.manual_seed(0)
    dims = {f"m{i}": sizes.model_dim for i in range(sizes.model_count)}
    fusion: ef.Fusion = ef.DEQFusion(dims, sizes.model_dim) if kind == "deq" else ef.Concat(dims)
    width = sizes.model_dim
    encoders: dict[str, nn.Module | None] = {m: ef.encoders.MLPEncoder(width, (width,), dropout=0.0) for m in dims}
    model = ef.FusionModel(encoders, fusion, nn.Linear(fusion.out_dim, 10)).to(device).train()
    options = {"fused": True, "capturable": True} if device == "cuda" else {}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)
    inputs = {m: torch.randn(sizes.model_batch, width, device=device) for m in dims}
    target = torch.randint(10, (sizes.model_batch,), device=device)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(inputs).prediction, target).backward()
        optimiser.step()

    return step


def model_step(kind: str, who: str, sizes: Sizes, device: str) -> Row:
    """Milliseconds of a step."""
    with solved_by(who):
        step = model_of(kind, sizes, device)
        for _ in range(WARM_UPS[who] + 1):
            step()
        if who == GRAPH:
            step, _ = recorded(step, device)
            step()
        return {"step_ms": Clock(device).median(step, REPETITIONS[who])}


# ---- counts -----------------------------------------------------------------------------------------------------


def warmed(case: Case, device: str, who: str) -> tuple[Setting, Callable[[], tuple[Tensor, Any]]]:
    """A contender that has made some steps."""
    s = setting(case, device)
    run = forward_of(who, s)
    for _ in range(WARM_UPS[who]):
        s.gradients(run()[0])
    return s, run


@contextmanager
def _noted_reads(counts: Counter[str]) -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    counts.update(f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message))


def host_reads(case: Case, device: str, who: str) -> Row:
    """How often the host waits for the device, and where."""
    forward: Counter[str] = Counter()
    backward: Counter[str] = Counter()
    with solved_by(who):
        s, run = warmed(case, device, who)
        with _noted_reads(forward):
            fused, _ = run()
        with _noted_reads(backward):
            s.gradients(fused)
    total = forward.total() + backward.total()
    # A step has four solves: modalities and fusion, forward and backward. Torchdeq has two.
    return {
        "forward": forward.total(),
        "backward": backward.total(),
        "per solve": total / (2 if who == PEER else 4),
        "places": {"forward": dict(forward), "backward": dict(backward)},
    }


def launches(case: Case, device: str, who: str) -> Row:
    """What the host launches in a training step, and how many kernels run."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    with solved_by(who):
        s, run = warmed(case, device, who)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            s.gradients(run()[0])
            torch.cuda.synchronize()
    events = list(seen.events() or [])
    names = Counter(event.name for event in events)
    of_host = {name: n for name, n in names.items() if name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch"))}
    of_host |= {name: n for name, n in names.items() if name.startswith(("cudaMemcpy", "cudaMemset"))}
    on_device = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    operations = sum(n for name, n in names.items() if name.startswith("aten::"))
    return {
        "launched by the host": sum(of_host.values()),
        "graphs": names["cudaGraphLaunch"],
        "run on the device": on_device,
        "torch operations": operations,
        "names": of_host,
    }


# ---- the run ----------------------------------------------------------------------------------------------------


class _Messages(logging.Handler):
    """Keeps what the kernels say, such as that a solve could not be recorded."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self.seen[record.getMessage().splitlines()[0][:300]] += 1


@dataclass
class Run:
    """The rows so far, and what is left of the time."""

    out: Path
    device: str
    seconds: float
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)
    messages: _Messages = field(default_factory=_Messages)

    def row(self, part: str, name: str, measure: Callable[[], Row]) -> Row:
        """Measure a row and write everything: a failure or the end of the time is its result, too."""
        left = self.seconds - (time.perf_counter() - self.begun)
        begun = time.perf_counter()
        if left <= 0:
            row: Row = {"skipped": f"after {self.seconds:g} seconds"}
        else:
            try:
                row = measure()
            except Exception as fault:  # the others go on
                words = str(fault).strip().splitlines() or [""]
                row = {"error": f"{type(fault).__name__}: {words[0][:300]}"}
        row["seconds"] = round(time.perf_counter() - begun, 2)
        self.rows.setdefault(part, {})[name] = row
        shown = {key: value for key, value in row.items() if key not in ("each", "places", "names")}
        print(f"[{time.perf_counter() - self.begun:5.0f} s] {part} | {name}: {json.dumps(_short(shown))}", flush=True)
        self.write()
        return row

    def write(self) -> None:
        """Both files."""
        machine = describe() | {"device": self.device, "triton": _triton(), "tolerance": TOL}
        took = round(time.perf_counter() - self.begun, 1)
        notes = dict(self.messages.seen)
        write_json(self.out / "gpu.json", {"machine": machine, "seconds": took, "notes": notes, "rows": self.rows})
        parts = [f"{json.dumps(machine)}\n\n{took} seconds in all."]
        parts += [f"## {part}\n\n{table(part, rows)}" for part, rows in self.rows.items()]
        if notes:
            parts.append("## notes\n\n" + "\n".join(f"- {text} ({count} times)" for text, count in notes.items()))
        write_text(self.out / "gpu.md", "\n\n".join(part.strip() for part in parts) + "\n")


def _triton() -> str:
    try:
        import triton  # noqa: PLC0415
    except ImportError:
        return "none"
    return str(triton.__version__)


def _short(row: Row) -> Row:
    return {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in row.items()}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return str(value)


def _problem(row: Row) -> str | None:
    return row.get("error") or (f"skipped {row['skipped']}" if "skipped" in row else None)


def table(part: str, rows: dict[str, Row]) -> str:
    """A part as Markdown."""
    if part == "steps":
        return _steps_table(rows)
    keys = list(dict.fromkeys(key for row in rows.values() for key in row if key not in ("each", "places", "names")))
    keys = [key for key in keys if key not in ("error", "skipped", "seconds")]
    body = []
    for name, row in rows.items():
        problem = _problem(row)
        cells = [_shown(row.get(key)) for key in keys]
        body.append([name, *cells] if problem is None else [name, problem, *[""] * (len(keys) - 1)])
    text = to_markdown(["", *(keys or ["result"])], body)
    errors = {name: rows[name]["gradients together"] for name in WARM_UPS if "each" in rows.get(name, {})}
    if errors:
        text += f"\nOf those with tolerance 1e-4, {min(errors, key=lambda name: errors[name])} is nearest to float64."
    for name, row in rows.items():
        for place, counts in row.get("places", {}).items():
            text += f"\n{name}, {place}: " + ", ".join(f"{where} ({n})" for where, n in counts.items())
    return text


def _steps_table(rows: dict[str, Row]) -> str:
    by_case: dict[str, dict[str, Row]] = {}
    for name, row in rows.items():
        case, who = name.split(", ")
        by_case.setdefault(case, {})[who] = row
    header = [
        "B / d / M", "graph ms", "launched ms", "captured ms", "eager ms", "torchdeq ms", "products ms",
        "torchdeq / graph", "torchdeq / launched", "evaluations", "graph: converged, adjoint",
        "gradient error: graph", "launched", "eager", "torchdeq",
    ]  # fmt: skip
    body, problems = [], []
    for case, whose in by_case.items():
        graph, launched, ours, eager, peer, bound = (
            whose.get(who, {}) for who in (GRAPH, LAUNCHED, CAPTURED, EAGER, PEER, "products")
        )
        times = [row.get("step_ms") for row in (graph, launched, ours, eager, peer, bound)]

        def ratio(a: float | None, b: float | None) -> float | None:
            return a / b if a and b else None

        kinds = ("modality_forward", "fusion_forward", "modality_backward", "fusion_backward")
        made = " + ".join(str(ours[kind]) for kind in kinds) if "modality_forward" in ours else "-"
        shares = f"{_shown(graph.get('converged'))}, {_shown(graph.get('adjoint_converged'))}"
        cells = [*times, ratio(times[4], times[0]), ratio(times[4], times[1])]
        errors = [row.get("gradient_error") for row in (graph, launched, eager, peer)]
        body.append([case, *map(_shown, cells), made, shares, *map(_shown, errors)])
        problems += [f"- {case}, {who}: {_problem(row)}" for who, row in whose.items() if _problem(row)]
    return to_markdown(header, body) + ("\n\n" + "\n".join(problems) if problems else "")


def run_checks(run: Run, sizes: Sizes, contenders: tuple[str, ...]) -> None:
    """The part ``checks``."""
    case, device = sizes.checked, run.device
    exact: list[Exact] = []

    def solve_exactly() -> Row:
        with solved_by(EAGER):
            exact.append(reference(case, "cpu"))
        return {"gradient's norm": float(sum(g.square().sum() for g in exact[0][1]).sqrt())}  # type: ignore[union-attr]

    run.row("gradients", "float64, 1e-10", solve_exactly)
    if exact:
        for who in contenders:
            run.row("gradients", who, lambda who=who: gradients(case, device, who, exact[0]))
        name = f"{CAPTURED}, float64, 1e-10"
        run.row("gradients", name, lambda: gradients(case, device, CAPTURED, exact[0], torch.float64))
    run.row("scaler", "an overflow", lambda: scaler(case, device))
    for of in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        run.row("dtypes", f"{of} inputs".removeprefix("torch."), lambda of=of: dtype(case, device, of))
    for of in (torch.bfloat16, torch.float16):
        run.row("dtypes", f"autocast {of}".replace("torch.", ""), lambda of=of: autocast(case, device, of))


def run_steps(run: Run, sizes: Sizes, contenders: tuple[str, ...]) -> None:
    """The part ``steps``."""
    device = run.device
    for case in sizes.cases:
        forget()
        exact: list[Exact] = []
        name = f"{case.batch} / {case.dim} / {case.count}"
        captured: Row = {}
        for who in contenders:
            if not exact and case.batch <= sizes.exact_up_to:
                try:
                    with solved_by(EAGER):
                        exact.append(reference(case, device))
                except Exception as fault:  # then without errors
                    run.messages.seen[f"{name}, float64: {type(fault).__name__}: {fault}".splitlines()[0][:300]] += 1
            known = exact[0] if exact else None
            row = run.row("steps", f"{name}, {who}", lambda: training_step(case, device, who, known))  # noqa: B023
            captured = row if who == CAPTURED else captured
        run.row("steps", f"{name}, {GRAPH}", lambda: recorded_step(case, device, known))  # noqa: B023
        if "modality_backward" in captured:
            run.row("steps", f"{name}, products", lambda: products(case, device, captured))  # noqa: B023


def run_model(run: Run, sizes: Sizes) -> None:
    """The part ``model``."""
    forget()
    for kind, who in (
        ("concat", LAUNCHED), ("deq", LAUNCHED), ("deq", CAPTURED), ("deq", EAGER), ("concat", GRAPH), ("deq", GRAPH)
    ):  # fmt: skip
        name = f"{kind}, {who}"
        row = run.row("model", name, lambda kind=kind, who=who: model_step(kind, who, sizes, run.device))
        base = run.rows["model"][f"concat, {GRAPH if who == GRAPH else LAUNCHED}"].get("step_ms")
        if base and "step_ms" in row:
            row["over concat"] = row["step_ms"] / base
    run.write()


def run_counts(run: Run, sizes: Sizes, contenders: tuple[str, ...]) -> None:
    """The part ``counts``; the profiler comes last, because it may slow down what follows."""
    if run.device != "cuda":
        return
    forget()
    for measure in (host_reads, launches):
        for who in contenders:
            name = measure.__name__.replace("_", " ")
            run.row(name, who, lambda measure=measure, who=who: measure(sizes.checked, run.device, who))


PARTS = ("checks", "steps", "model", "counts")


def main() -> int:
    """Run, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: tiny sizes")
    parser.add_argument("--seconds", type=float, default=220, help="after which no further row is begun")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device; --device cpu tries the script with tiny sizes", file=sys.stderr)
        return 2
    # What hangs ends; the rows before are written.
    faulthandler.dump_traceback_later(options.seconds + 15, exit=True)
    run = Run(options.out, options.device, options.seconds)
    logger = logging.getLogger("equifuse.kernels")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(run.messages)
    logger.propagate = False
    print(json.dumps(describe()), flush=True)
    sizes = FULL if options.device == "cuda" else TINY
    try:
        import torchdeq  # noqa: F401, PLC0415
    except ImportError:
        print("torchdeq is not installed, its columns stay empty", flush=True)
        contenders: tuple[str, ...] = (LAUNCHED, CAPTURED, EAGER)
    else:
        contenders = (LAUNCHED, CAPTURED, EAGER, PEER)
    if "checks" in options.parts:
        run_checks(run, sizes, contenders)
    if "steps" in options.parts:
        run_steps(run, sizes, contenders)
    if "model" in options.parts:
        run_model(run, sizes)
    if "counts" in options.parts:
        run_counts(run, sizes, contenders)
    run.write()
    faulthandler.cancel_dump_traceback_later()
    print(f"\n{(options.out / 'gpu.md').read_text()}\nwritten to {options.out}")
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore", ef.ConvergenceWarning)
    sys.exit(main())
