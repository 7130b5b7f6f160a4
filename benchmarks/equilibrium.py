"""Speed, memory and accuracy of the equilibrium of deep-equilibrium fusion, against named peers, in one run.

    python benchmarks/equilibrium.py --out runs/equilibrium            # 2 CPU cores: about a quarter of an hour
    python benchmarks/equilibrium.py --cases headline                  # the headline cases only

Each case is one batch ``(B, d)`` of ``M`` modalities, a gradient ``c`` at the fused state, and one map: the weights
that the library starts from (``easy``), these with the matrices three times as large (``hard``), or weights
N(0, 0.01²), zero biases and unit gains (``published``), with which the published map converges. The contenders solve
the same system:

- ``equifuse``: the library's default, tolerance 1e-4 per sample, adjoint to 1e-4;
- ``equifuse warm``: the same from cached equilibria of slightly different weights (relative change 1e-3), as in a
  training over epochs;
- ``equifuse phantom``: gradients through five steps instead of the adjoint; ``--cases gradients`` has more of the kind;
- ``torchdeq anderson``/``broyden``: torchdeq 0.1.0 on the joint map of this library, relative tolerance 1e-4 forward
  and backward, its implicit gradient (``pip install -e ".[peers]"``; left out where it is missing);
- ``published``: the joint solve as published: Anderson with memory 6 and ridge 1e-4 on the joint state, to 1e-3 on the
  residual norm of the whole batch or 105 evaluations, and the same for the adjoint with 106;
- ``weight-tied``: the joint map applied as often as ``equifuse`` evaluated its own, back-propagated through.

Three bounds stand below: ``products`` is a bound for float32, the matrix products of ``equifuse``'s evaluations alone,
at the speed measured here; ``products as made`` is the time of the products that ``equifuse`` really made, alone: many
of them in bfloat16 where the CPU multiplies that; ``operations as made`` adds the bytes that its elementwise operations
move, at the speed at which this machine adds two tensors of that size that lie in its caches.

Each contender runs in a process of its own, one at a time. Times are medians over interleaved repetitions; memory is
what a fresh process needs at its peak beyond what it held before the call; errors are relative to a float64 solve to
1e-10, of the fused state and of all gradients together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import equifuse as ef
from equifuse.files import write_json, write_text
from equifuse.report.tables import to_markdown
from machine import describe

TOL = 1e-4
HARD = 3.0


@dataclass(frozen=True)
class Case:
    """Batch, width, modalities, and the kind of weights."""

    batch: int
    dim: int
    count: int
    weights: str = "easy"

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"B={self.batch} d={self.dim} M={self.count} {self.weights}"

    @property
    def words(self) -> list[str]:
        """As on a command line; :meth:`of` reads them back."""
        return [str(self.batch), str(self.dim), str(self.count), self.weights]

    @classmethod
    def of(cls, words: list[str]) -> Case:
        """From :attr:`words`."""
        batch, dim, count, weights = words
        return cls(int(batch), int(dim), int(count), weights)


@dataclass
class Setting:
    """One case's map, inputs and gradient."""

    fusion: ef.DEQFusion
    inputs: dict[str, Tensor]
    cotangent: Tensor

    def gradients(self, fused: Tensor) -> list[Tensor]:
        """Gradients of ``Σ c ⊙ fused`` with respect to all parameters and inputs."""
        wanted = [*self.fusion.parameters(), *self.inputs.values()]
        return list(torch.autograd.grad((fused * self.cotangent).sum(), wanted))


def setting(case: Case, device: str, dtype: torch.dtype = torch.float32) -> Setting:
    """The same numbers for every contender."""
    torch.manual_seed(0)
    dims = {f"m{i}": case.dim for i in range(case.count)}
    fusion = ef.DEQFusion(dims, case.dim, projection=False, solver=ef.Anderson(tol=TOL, max_steps=200))
    fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=TOL))
    with torch.no_grad():
        for parameter in fusion.parameters():
            square = parameter.dim() >= 2 and parameter.shape[-1] == parameter.shape[-2] == case.dim
            if case.weights == "hard" and square:
                parameter.mul_(HARD)
            elif case.weights == "published" and square:
                parameter.normal_(std=0.01)
        if case.weights == "published":
            _unit_norms(fusion)
    inputs = {m: torch.randn(case.batch, case.dim) for m in dims}
    cotangent = torch.randn(case.batch, case.dim)
    return Setting(
        fusion.to(device, dtype),
        {m: x.to(device, dtype).requires_grad_() for m, x in inputs.items()},
        cotangent.to(device, dtype),
    )


def _unit_norms(fusion: ef.DEQFusion) -> None:
    for name, parameter in fusion.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.fill_(1.0)
        elif "bias" in name:
            parameter.zero_()


# ---- contenders: a function of a setting that returns the fused state, on the tape, and the evaluations used ----

Solve = Callable[[], tuple[Tensor, Callable[[], dict[str, float]]]]


def _ours(s: Setting) -> tuple[Tensor, Callable[[], dict[str, float]]]:
    out = s.fusion(s.inputs)
    assert out.stats is not None
    parts = out.stats.parts

    def used() -> dict[str, float]:
        modality = [part for name, part in parts.items() if name != "fusion"]
        counts = {"forward": float(out.stats.steps.double().mean()), "residual": float(out.stats.residual.max())}
        counts["modality_forward"] = statistics.fmean(float(p.steps.double().mean()) for p in modality)
        counts["fusion_forward"] = float(parts["fusion"].steps.double().mean())
        for label, group in (("modality", modality), ("fusion", [parts["fusion"]])):
            adjoints = [p.adjoint for p in group if p.adjoint is not None]
            if adjoints:
                counts[f"{label}_backward"] = statistics.fmean(float(a.steps.double().mean()) for a in adjoints)
        return counts

    return out.fused, used


def equifuse(s: Setting) -> Solve:
    """The default."""
    return lambda: _ours(s)


def equifuse_with(gradient: ef.solve.Gradient) -> Callable[[Setting], Solve]:
    """The default forward, with another gradient."""

    def of(s: Setting) -> Solve:
        def run() -> Any:
            s.fusion.gradient, kept = gradient, s.fusion.gradient
            try:
                return _ours(s)
            finally:
                s.fusion.gradient = kept

        return run

    return of


def equifuse_warm(s: Setting) -> Solve:
    """From the equilibria of weights that differ by 1e-3."""
    index = torch.arange(len(s.cotangent))
    fusion = s.fusion.train()
    exact = [parameter.detach().clone() for parameter in fusion.parameters()]
    generator = torch.Generator().manual_seed(1)
    cache = ef.EquilibriumCache()
    with torch.no_grad():
        for parameter in fusion.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.mul_(1 + 1e-3 * noise)
        fusion.warm_start = cache
        fusion(s.inputs, index=index)
        for parameter, value in zip(fusion.parameters(), exact, strict=True):
            parameter.copy_(value)
    fusion.warm_start = None
    known = {name: table.clone() for name, table in cache._states.items()}

    def run() -> Any:
        for name, table in known.items():  # every repetition starts from the same
            cache._states[name].copy_(table)
        fusion.warm_start = cache
        try:
            out = fusion(s.inputs, index=index)
        finally:
            fusion.warm_start = None
        return out.fused, lambda: {
            "forward": float(out.stats.steps.double().mean()),
            "residual": float(out.stats.residual.max()),
        }

    return run


def torchdeq(name: str) -> Callable[[Setting], Solve]:
    """Torchdeq on the joint map."""

    def of(s: Setting) -> Solve:
        from torchdeq import get_deq  # noqa: PLC0415

        deq = get_deq(
            f_solver=name, b_solver=name, f_max_iter=200, b_max_iter=200, f_tol=TOL, b_tol=TOL,
            f_stop_mode="rel", b_stop_mode="rel", ift=True,
        )  # fmt: skip

        def run() -> Any:
            f, start = s.fusion.equilibrium_map(s.inputs)
            calls = [0]

            def counted(z: Tensor, **_: Any) -> Tensor:
                calls[0] += 1
                return f(z)

            states, info = deq(counted, start)
            residual = float(info["rel_lowest"].max())
            return states[-1][:, -1], lambda: {"forward": calls[0], "residual": residual}

        return run

    return of


def _published_anderson(f: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, int, float]:
    """Anderson as METHODS has the authors' settings: memory 6, absolute ridge 1e-4, 1e-3 on the whole batch's norm."""
    batch, width, memory, ridge = start.shape[0], start[0].numel(), 6, 1e-4
    x = start.new_zeros(batch, memory, width)
    fx = torch.zeros_like(x)
    x[:, 0], fx[:, 0] = start.flatten(1), f(start).flatten(1)
    x[:, 1] = fx[:, 0]
    fx[:, 1] = f(x[:, 1].view_as(start)).flatten(1)
    system = start.new_zeros(batch, memory + 1, memory + 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    right = start.new_zeros(batch, memory + 1, 1)
    right[:, 0] = 1
    best, lowest, used = x[:, 1], float("inf"), 2
    for k in range(2, steps):
        n = min(k, memory)
        r = fx[:, :n] - x[:, :n]
        system[:, 1 : n + 1, 1 : n + 1] = r @ r.mT + ridge * torch.eye(n, dtype=start.dtype, device=start.device)
        alpha = torch.linalg.solve(system[:, : n + 1, : n + 1], right[:, : n + 1])[:, 1:, 0]
        new = (alpha[:, None] @ fx[:, :n])[:, 0]
        image = f(new.view_as(start)).flatten(1)
        x[:, k % memory], fx[:, k % memory] = new, image
        used = k + 1
        residual = float((image - new).norm())
        if residual < lowest:
            best, lowest = new, residual
        if residual < 1e-3:
            break
    return best.view_as(start), used, lowest


class _Published(torch.autograd.Function):
    """The joint implicit gradient, its adjoint by the same solver."""

    @staticmethod
    def forward(ctx: Any, fz: Tensor, z: Tensor) -> Tensor:
        ctx.fz, ctx.z = fz, z
        return fz.detach().clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        def product(u: Tensor) -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(ctx.fz, ctx.z, u, retain_graph=True)[0] + g

        return _published_anderson(product, torch.zeros_like(g), 106)[0], None


def published(s: Setting) -> Solve:
    """The joint solve with the authors' settings."""

    def run() -> Any:
        f, start = s.fusion.equilibrium_map(s.inputs)
        with torch.no_grad():
            z, used, _ = _published_anderson(f, start, 105)
        z_in = z.requires_grad_()
        fz = f(z_in)
        with torch.no_grad():
            residual = float(((fz - z_in).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)).max())
        return _Published.apply(fz, z_in)[:, -1], lambda: {"forward": used, "residual": residual}

    return run


def weight_tied(s: Setting) -> Solve:
    """The joint map as often as equifuse's evaluations, unrolled."""
    with torch.no_grad():
        stats = s.fusion(s.inputs).stats
    steps = round(float(stats.steps.double().mean()))

    def run() -> Any:
        f, z = s.fusion.equilibrium_map(s.inputs)
        for _ in range(steps):
            before, z = z, f(z)
        with torch.no_grad():
            residual = float(((z - before).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)).max())
        return z[:, -1], lambda: {"forward": steps, "residual": residual}

    return run


def fixed_steps(*, compiled: bool) -> Callable[[Setting], Solve]:
    """The joint map eight times, the library's form for compilers; errors are those of eight plain steps."""

    def of(s: Setting) -> Solve:
        s.fusion.iterations = 8
        mode = "reduce-overhead" if s.cotangent.is_cuda else None  # CUDA graphs
        module = torch.compile(s.fusion, fullgraph=True, mode=mode) if compiled else s.fusion

        def run() -> Any:
            out = module(s.inputs)
            return out.fused, lambda: {"forward": 8.0, "residual": float(out.stats.residual.max())}

        return run

    return of


CONTENDERS: dict[str, Callable[[Setting], Solve]] = {
    "equifuse": equifuse,
    "equifuse warm": equifuse_warm,
    "equifuse phantom": equifuse_with(ef.Phantom(steps=5)),
    "torchdeq anderson": torchdeq("anderson"),
    "torchdeq broyden": torchdeq("broyden"),
    "published": published,
    "weight-tied": weight_tied,
}
# Ways to the gradient; see the case "gradients".
GRADIENTS: dict[str, Callable[[Setting], Solve]] = {
    "equifuse": equifuse,
    "equifuse adjoint to 1e-5": equifuse_with(ef.Implicit()),
    "equifuse adjoint by anderson": equifuse_with(ef.Implicit(solver=ef.Anderson(tol=TOL, max_steps=60))),
    "equifuse phantom": CONTENDERS["equifuse phantom"],
    "equifuse phantom, 2 steps": equifuse_with(ef.Phantom(steps=2)),
}
# What torch.compile makes of a fixed number of steps; see the case "compiled".
COMPILED: dict[str, Callable[[Setting], Solve]] = {
    "equifuse": equifuse,
    "fixed steps": fixed_steps(compiled=False),
    "fixed steps, compiled": fixed_steps(compiled=True),
}
ALL = {**CONTENDERS, **GRADIENTS, **COMPILED}


# ---- measuring ------------------------------------------------------------------------------------------------


def clock(device: str) -> float:
    """Seconds, with the device's work done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(call: Callable[[], object], device: str) -> float:
    """What a call takes: the median of 20."""
    laps = []
    for _ in range(20):
        begun = clock(device)
        call()
        laps.append(clock(device) - begun)
    return statistics.median(laps)


def seconds_of_product(a: Tensor, b: Tensor, device: str) -> float:
    """What ``a @ b`` takes, into memory that is there."""
    out = torch.matmul(a, b)
    return seconds(lambda: torch.matmul(a, b, out=out), device)


def products_bound(
    case: Case, used: dict[str, float], device: str, seconds_of: Callable[[Tensor, Tensor], float] | None = None
) -> tuple[float, float]:
    """Seconds that the matrix products of a training step of equifuse take at the speed measured here: forward, all.

    ``seconds_of`` measures a product, by default :func:`seconds_of_product`.

    Forward: two products per modality evaluation and two per fusion evaluation, and one for the gate's constant.
    Backward: two for the evaluation that is linearised, two per product with the transposed Jacobian, three for the
    pull to the weights, each of the modalities and of the fusion state; and two more for the gate's constant.
    """
    stacked = [torch.randn(case.count, case.batch, case.dim, device=device) for _ in range(2)]
    weights = torch.randn(case.count, case.dim, case.dim, device=device)
    times: dict[str, float] = {}
    with torch.no_grad():
        for label, a, b in (("modality", stacked[0], weights), ("fusion", stacked[0][0], weights[0])):
            times[label] = seconds_of(a, b) if seconds_of is not None else seconds_of_product(a, b, device)
    forward = 2 * used["modality_forward"] * times["modality"] + (2 * used["fusion_forward"] + 1) * times["fusion"]
    backward = (2 + 2 * used["modality_backward"] + 3) * times["modality"]
    backward += (2 + 2 * used["fusion_backward"] + 3 + 2) * times["fusion"]
    return forward, forward + backward


class _Seen(TorchDispatchMode):
    """Counts matrix products by their factors' shapes and dtype, and the bytes that other operations move."""

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self.counts: Counter[tuple[torch.Size, torch.Size, torch.dtype]] = Counter()
        self.smallest, self.bytes = smallest, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            a, b = args[-2:]
            self.counts[a.shape, b.shape, a.dtype] += 1
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        looks = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        if not looks and not name.startswith(("empty", "new_empty")):
            tensors = [t for t in (*args, result) if isinstance(t, Tensor) and t.numel() >= self.smallest]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result


def bytes_per_second(case: Case, device: str) -> float:
    """At which tensors of the size of the modalities' states are added, again and again, so that caches have them."""
    a, b = (torch.randn(case.count, case.batch, case.dim, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return 3 * a.numel() * a.element_size() / seconds(lambda: torch.add(a, b, out=out), device)


def operations_made(case: Case, device: str) -> dict[str, tuple[float, float]]:
    """Seconds of the products of a training step of equifuse alone, and with its other operations: forward, all."""
    s = setting(case, device)
    totals, others = [], []
    with _Seen(case.batch * case.dim) as forward:
        fused, _ = _ours(s)
    with _Seen(case.batch * case.dim) as backward:
        s.gradients(fused)
    for seen in (forward, backward):
        total = 0.0
        for (left, right, dtype), count in seen.counts.items():
            a, b = (torch.randn(shape, device=device).to(dtype) for shape in (left, right))
            total += count * seconds_of_product(a, b, device)
        totals.append(total)
        others.append(total + seen.bytes / bytes_per_second(case, device))
    return {"products as made": (totals[0], sum(totals)), "operations as made": (others[0], sum(others))}


def reference(case: Case, device: str) -> tuple[Tensor, list[Tensor]]:
    """Fused state and gradients, in float64 to 1e-10."""
    s = setting(case, device, torch.float64)
    s.fusion.solver = ef.Anderson(tol=1e-10, max_steps=500)
    s.fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=1e-10, max_steps=300))
    fused = s.fusion(s.inputs).fused
    return fused.detach(), s.gradients(fused)


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Relative error of all together."""
    difference = sum(float((a.detach().double() - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return (difference / sum(float(b.square().sum()) for b in exact)) ** 0.5


class Contender:
    """One of them in a process of its own, which makes a training step when it is asked to.

    In one process, what one leaves behind in the memory allocator makes another faster or slower.

    Args:
        case: what to solve.
        name: see :data:`ALL`.
        device: where.
        exact: file of what :func:`reference` returned.
    """

    def __init__(self, case: Case, name: str, device: str, exact: Path) -> None:
        words = [sys.executable, __file__, "--worker", *case.words, name, device, str(exact)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, Any]:
        """Seconds of the forward pass and of all; the first one also says how good it is."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018
        print(file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> None:
        """No more steps."""
        self._process.communicate("")


def _worker(arguments: list[str]) -> None:
    """What a :class:`Contender` runs."""
    *words, name, device, exact = arguments
    case = Case.of(words)
    s = setting(case, device)
    state, gradients = torch.load(exact, weights_only=True, map_location=device)
    found: dict[str, Any] = {}
    try:
        solve = ALL[name](s)
    except ImportError:
        found["missing"] = True
    for _ in sys.stdin:
        if "missing" not in found:
            begun = clock(device)
            fused, used = solve()
            middle = clock(device)
            own = s.gradients(fused)
            found |= {"forward_seconds": middle - begun, "step_seconds": clock(device) - begun}
            if "state_error" not in found:
                found |= {**used(), "state_error": error([fused], [state]), "gradient_error": error(own, gradients)}
        print(json.dumps(found), flush=True)


def measure(case: Case, names: list[str], device: str, repetitions: int) -> dict[str, dict[str, Any]]:
    """Times, evaluations and errors of each contender on a case."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.pt"
        torch.save(reference(case, device), exact)
        contenders = {name: Contender(case, name, device, exact) for name in names}
        for name, contender in contenders.items():  # one at a time; the first step is for warming up
            results[name] = contender.step()
        for name in [name for name in names if "missing" in results[name]]:
            print(f"{name}: torchdeq is not installed, left out")
            contenders.pop(name).end()
            del results[name]
        laps = [{name: contender.step() for name, contender in contenders.items()} for _ in range(repetitions)]
        for contender in contenders.values():
            contender.end()
    for name, found in results.items():
        for part in ("forward_seconds", "step_seconds"):
            found[part] = statistics.median(lap[name][part] for lap in laps)
    bounds = {"products": products_bound(case, results["equifuse"], device), **operations_made(case, device)}
    for name, bound in bounds.items():
        results[name] = {"forward_seconds": bound[0], "step_seconds": bound[1]}
    return results


def peak_memory(case: Case, name: str, device: str) -> float | None:
    """MiB that one training step needs beyond what was held before, in a process of its own; None if it failed."""
    words = [sys.executable, __file__, "--memory", *case.words, name, device]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def _memory(arguments: list[str]) -> None:
    *words, name, device = arguments
    case = Case.of(words)
    s = setting(case, device)
    tiny = setting(Case(4, 8, 2), device)
    tiny.gradients(_ours(tiny)[0])  # whatever is loaded on first use
    solve = ALL[name](s)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        s.gradients(solve()[0])
        print(torch.cuda.max_memory_allocated() / 2**20 - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _resident("VmRSS")
    s.gradients(solve()[0])
    print(_resident("VmHWM") - before)


def _resident(key: str) -> float:
    """MiB, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def rows_of(case: Case, results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table's rows of one case."""
    ours = results["equifuse"]["step_seconds"]

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        [
            case.name,
            name,
            number(1000 * found["forward_seconds"], ".0f"),
            number(1000 * found["step_seconds"], ".0f"),
            number(found["step_seconds"] / ours, ".2f"),
            number(found.get("memory"), ".0f"),
            number(found.get("forward"), ".1f"),
            number(found.get("residual"), ".1e"),
            number(found.get("state_error"), ".1e"),
            number(found.get("gradient_error"), ".1e"),
        ]
        for name, found in results.items()
    ]


HEADER = [
    "case", "contender", "forward ms", "step ms", "step / equifuse", "peak MiB", "evaluations", "residual",
    "state error", "gradient error",
]  # fmt: skip


def cases() -> dict[str, list[tuple[Case, list[str]]]]:
    """Group -> its cases, and who takes part."""
    everyone = list(CONTENDERS)
    headline = [Case(612, 500, 3, weights) for weights in ("easy", "hard", "published")]
    grid = [Case(64, 128, 3), Case(64, 500, 3), Case(612, 128, 3), Case(612, 500, 2), Case(612, 500, 6)]
    large = [Case(4096, 128, 3), Case(4096, 500, 3), Case(612, 1024, 3), Case(64, 1024, 3)]
    slow = [name for name in everyone if name != "torchdeq broyden"]
    growth = [Case(256, 128, m) for m in (2, 4, 8, 16)] + [Case(b, 128, 3) for b in (16, 64, 256, 1024)]
    few = ["equifuse", "torchdeq anderson", "published"]
    return {
        "headline": [(c, everyone) for c in headline],
        "grid": [(c, everyone) for c in grid] + [(c, slow) for c in large],
        "growth": [(c, few) for c in growth],
        "gradients": [(c, list(GRADIENTS)) for c in headline],
        "compiled": [(c, list(COMPILED)) for c in (*grid[:2], headline[0])],
    }


def main() -> None:
    """Run, print and store the tables."""
    inner = {"--memory": _memory, "--worker": _worker}
    if len(sys.argv) > 1 and sys.argv[1] in inner:
        inner[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/equilibrium"))
    parser.add_argument("--cases", default="all", choices=["all", *cases()])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    record: dict[str, Any] = {"machine": describe(), "tolerance": TOL, "cases": {}}
    rows: list[list[str]] = []
    chosen = cases() if options.cases == "all" else {options.cases: cases()[options.cases]}
    for group, case, names in [(group, *case) for group, found in chosen.items() for case in found]:
        results = measure(case, names, options.device, options.repetitions)
        for name in results:
            if name in ALL:
                results[name]["memory"] = peak_memory(case, name, options.device)
        record["cases"].setdefault(group, {})[case.name] = results
        rows += rows_of(case, results)
        print(to_markdown(HEADER, rows_of(case, results)), flush=True)
        # After every case: an interrupted run keeps what it has.
        write_json(options.out / "metrics.json", record)
        write_text(options.out / "table.md", f"{json.dumps(record['machine'])}\n\n{to_markdown(HEADER, rows)}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", ef.ConvergenceWarning)
    main()
