"""What a training step, a model, a single sample and the first call cost with the equilibrium, beside named peers.

    python benchmarks/equilibrium.py --out runs/equilibrium            # 2 CPU cores: about six minutes

Everything is float32, on one thread, and in one run: ratios are within it. Times are processor times, medians over
interleaved repetitions, each contender in a process of its own.

A training step solves one batch ``(B, d)`` of ``M`` modalities and back-propagates ``Σ c ⊙ fused`` with a fixed random
``c`` to all parameters and inputs. The maps: the weights that the library starts from (``easy``), these with the
matrices three times as large (``hard``), or weights N(0, 0.01²), zero biases and unit gains (``published``). The
contenders solve the same system:

- ``equifuse``: the library's default forward solve, to 1e-4 per sample, and its adjoint to 1e-4;
- ``reference``: the same with ``EQUIFUSE_KERNELS=reference``, plain torch operations in place of the compiled kernels;
- ``torchdeq``: Anderson of torchdeq 0.1.0 on the joint map of this library, relative tolerance 1e-4 forward and
  backward, its implicit gradient (``pip install -e ".[peers]"``; left out where it is missing);
- ``published``: the joint solve as published: Anderson with memory 6 and ridge 1e-4 on the joint state, to 1e-3 on the
  residual norm of the whole batch or 105 evaluations, and the same for the adjoint with 106;
- ``products``, a bound: the matrix products that ``equifuse`` made, alone.

Errors of gradients are relative to a float64 solve to 1e-10, of all gradients together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import equifuse as ef
from equifuse.files import write_json, write_text
from equifuse.kernels import VARIABLE
from equifuse.report.tables import to_markdown
from machine import describe

TOL = 1e-4
HARD = 3.0
SIZES = ((16, 64, 2), (64, 64, 5), (64, 128, 3), (612, 500, 3))
WEIGHTS = ("easy", "hard", "published")
# A step is repeated for so many seconds, or so often; one that takes longer than a turn is not repeated.
SECONDS, MOST = 2.0, 20


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
        return f"{self.batch}/{self.dim}/{self.count} {self.weights}"


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


def setting(case: Case, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Setting:
    """The same numbers for every contender."""
    torch.manual_seed(0)
    dims = {f"m{i}": case.dim for i in range(case.count)}
    fusion = ef.DEQFusion(dims, case.dim, projection=False, solver=ef.Anderson(tol=TOL, max_steps=200))
    fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=TOL))
    with torch.no_grad():
        for name, parameter in fusion.named_parameters():
            square = parameter.dim() >= 2 and parameter.shape[-1] == parameter.shape[-2] == case.dim
            if case.weights == "hard" and square:
                parameter.mul_(HARD)
            elif case.weights == "published" and square:
                parameter.normal_(std=0.01)
            elif case.weights == "published" and "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            elif case.weights == "published" and "bias" in name:
                parameter.zero_()
    inputs = {m: torch.randn(case.batch, case.dim) for m in dims}
    cotangent = torch.randn(case.batch, case.dim)
    moved = {m: x.to(device, dtype).requires_grad_() for m, x in inputs.items()}
    return Setting(fusion.to(device, dtype), moved, cotangent.to(device, dtype))


# ---- contenders: the fused state of a setting, on the tape ---------------------------------------------------------


def equifuse(s: Setting) -> Tensor:
    """The default."""
    return s.fusion(s.inputs).fused


def reference(s: Setting) -> Tensor:
    """The default without compiled kernels; its process has them switched off."""
    return equifuse(s)


def torchdeq(s: Setting) -> Tensor:
    """Torchdeq on the joint map."""
    from torchdeq import get_deq  # noqa: PLC0415

    deq = get_deq(
        f_solver="anderson", b_solver="anderson", f_max_iter=200, b_max_iter=200, f_tol=TOL, b_tol=TOL,
        f_stop_mode="rel", b_stop_mode="rel", ift=True,
    )  # fmt: skip
    f, start = s.fusion.equilibrium_map(s.inputs)
    states, _ = deq(lambda z, **_: f(z), start)
    return states[-1][:, -1]


def _published_anderson(f: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
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
    best, lowest = x[:, 1], float("inf")
    for k in range(2, steps):
        n = min(k, memory)
        r = fx[:, :n] - x[:, :n]
        system[:, 1 : n + 1, 1 : n + 1] = r @ r.mT + ridge * torch.eye(n, dtype=start.dtype)
        alpha = torch.linalg.solve(system[:, : n + 1, : n + 1], right[:, : n + 1])[:, 1:, 0]
        new = (alpha[:, None] @ fx[:, :n])[:, 0]
        image = f(new.view_as(start)).flatten(1)
        x[:, k % memory], fx[:, k % memory] = new, image
        residual = float((image - new).norm())
        if residual < lowest:
            best, lowest = new, residual
        if residual < 1e-3:
            break
    return best.view_as(start)


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

        return _published_anderson(product, torch.zeros_like(g), 106), None


def published(s: Setting) -> Tensor:
    """The joint solve with the authors' settings."""
    f, start = s.fusion.equilibrium_map(s.inputs)
    with torch.no_grad():
        z = _published_anderson(f, start, 105)
    z.requires_grad_()
    return _Published.apply(f(z), z)[:, -1]


CONTENDERS: dict[str, Callable[[Setting], Tensor]] = {
    "equifuse": equifuse, "reference": reference, "torchdeq": torchdeq, "published": published,
}  # fmt: skip


# ---- measuring ----------------------------------------------------------------------------------------------------


def milliseconds(call: Callable[[], object], most: int = MOST) -> float:
    """Processor time of a call: the median of many."""
    call()
    laps: list[float] = []
    while len(laps) < most and sum(laps) < SECONDS:
        begun = time.process_time()
        call()
        laps.append(time.process_time() - begun)
    return 1000 * statistics.median(laps)


class Operations(TorchDispatchMode):
    """Counts what torch dispatches without views, and the matrix products by their factors' layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.products: Counter[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        if func.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm"):
            self.products[tuple((tuple(x.shape), x.stride()) for x in args[-2:])] += 1
        return func(*args, **(kwargs or {}))

    def milliseconds_of_products(self) -> float:
        """What the products take, alone, into memory that is there."""
        total = 0.0
        for layouts, count in self.products.items():
            a, b = (torch.empty_strided(*layout).normal_() for layout in layouts)
            total += count * milliseconds(partial(torch.matmul, a, b, out=torch.matmul(a, b)), 10)
        return total


def operations(call: Callable[[], object]) -> Operations:
    """What a call dispatches, when it is not the first."""
    call()
    with Operations() as seen:
        call()
    return seen


class Contender:
    """One of them in a process of its own, which makes a training step when it is asked to.

    In one process, what one leaves behind in the memory allocator makes another faster or slower.

    Args:
        name: see :data:`CONTENDERS`.
    """

    def __init__(self, name: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", VARIABLE: "reference" if name == "reference" else "fused"}
        words = [sys.executable, __file__, "--worker", name]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def step(self, case: Case, exact: Path) -> dict[str, float]:
        """Milliseconds; the first step of a case also says how good it is. Empty where a peer is not installed."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018
        try:
            print(json.dumps([*astuple(case), str(exact)]), file=self._process.stdin, flush=True)
        except BrokenPipeError:  # it has ended
            return {}
        found: dict[str, float] = json.loads(self._process.stdout.readline() or "{}")
        return found

    def end(self) -> None:
        """No more steps."""
        self._process.communicate("")


def _worker(name: str) -> None:
    """What a :class:`Contender` runs."""
    torch.set_num_threads(1)
    known, s, tiny = None, None, setting(Case(4, 8, 2))
    try:
        tiny.gradients(CONTENDERS[name](tiny))  # whatever is loaded on first use
    except ImportError:
        return
    for line in sys.stdin:
        *words, exact = json.loads(line)
        case, found = Case(*words), {}
        first = case != known
        if first or s is None:
            known, s = case, setting(case)
        begun = time.process_time()
        gradients = s.gradients(CONTENDERS[name](s))
        found["ms"] = 1000 * (time.process_time() - begun)
        if first:
            found["error"] = error(gradients, torch.load(exact, weights_only=True))
            if name == "equifuse":
                seen = operations(partial(_step, s))
                found |= {"operations": seen.count, "products": seen.milliseconds_of_products()}
        print(json.dumps(found), flush=True)


def _step(s: Setting) -> None:
    s.gradients(equifuse(s))


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Relative error of all together."""
    difference = sum(float((a.detach().double() - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return (difference / sum(float(b.square().sum()) for b in exact)) ** 0.5


def training_steps(cases: list[Case]) -> dict[str, dict[str, dict[str, float]]]:
    """Times, operations and errors of each contender on each case."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    contenders = {name: Contender(name) for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            exact = Path(folder) / "exact.pt"
            s = setting(case, dtype=torch.float64)
            s.fusion.solver = ef.Anderson(tol=1e-10, max_steps=500)
            s.fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=1e-10, max_steps=300))
            torch.save(s.gradients(equifuse(s)), exact)
            found = {name: contender.step(case, exact) for name, contender in contenders.items()}
            found = {name: first for name, first in found.items() if first}
            laps = {name: [first["ms"]] if first["ms"] > 1000 * SECONDS else [] for name, first in found.items()}
            for _ in range(MOST):  # in turns, so that all of them meet the same load
                for name, own in laps.items():
                    if sum(own) < 1000 * SECONDS:
                        own.append(contenders[name].step(case, exact)["ms"])
            results[case.name] = {name: {**first, "ms": statistics.median(laps[name])} for name, first in found.items()}
            print(case.name, {name: round(own["ms"], 1) for name, own in results[case.name].items()}, flush=True)
    for contender in contenders.values():
        contender.end()
    return results


def _model_step(name: str, width: int) -> Callable[[], None]:
    """A training step of a model, batch 64 and five modalities of width 128; encoders and equilibrium of one width."""
    torch.manual_seed(0)
    inputs, target = {f"m{i}": torch.randn(64, 128) for i in range(5)}, torch.arange(64) % 3
    model = ef.build_model(
        dict.fromkeys(inputs, 128),
        "classification",
        3,
        fusion=name,
        fusion_options={"dim": width} if name == "deq" else {},
        encoder_options={"hidden": [width]},
    )
    optimiser = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs).prediction, target).backward()
        optimiser.step()

    return step


def models() -> dict[str, dict[str, float]]:
    """Milliseconds of a model's training step with ``deq`` and with ``concat``, by the width of encoders and fusion."""
    found = {}
    for width in (64, 128):
        steps = {name: _model_step(name, width) for name in ("concat", "deq")}
        rounds = [{name: milliseconds(step, 5) for name, step in steps.items()} for _ in range(7)]
        found[str(width)] = {name: statistics.median(lap[name] for lap in rounds) for name in steps}
    return found


def one_row() -> dict[str, float]:
    """Milliseconds and operations of one sample through a fusion in evaluation, with and without compiled kernels."""
    dims = {f"m{i}": 128 for i in range(5)}
    torch.manual_seed(0)
    fusion, row = ef.DEQFusion(dims, 64).eval(), {m: torch.randn(1, 128) for m in dims}
    with torch.no_grad():
        seen = operations(lambda: fusion(row))
        found = {"ms": milliseconds(lambda: fusion(row), 300), "operations": float(seen.count)}
        found["products"] = seen.milliseconds_of_products()
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = "reference"
        found["reference"] = milliseconds(lambda: fusion(row), 100)
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
    return found


def peak_memory(steps: int) -> float:
    """MiB that a training step of so many evaluations needs beyond what was held, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(steps)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def _memory(steps: str) -> None:
    torch.set_num_threads(1)
    case = Case(612, 500, 3)
    tiny, s = setting(Case(4, 8, 2)), setting(case)
    tiny.gradients(equifuse(tiny))  # whatever is loaded on first use
    s.fusion.solver = ef.Anderson(tol=1e-30, max_steps=int(steps), patience=0)
    s.fusion.gradient = ef.Implicit(solver=ef.GMRES(tol=TOL))
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _resident("VmRSS")
    s.gradients(equifuse(s))
    print(_resident("VmHWM") - before)


def _resident(key: str) -> float:
    """MiB, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def first_calls() -> dict[str, float]:
    """Seconds that a first training step takes, the import not counted, with an empty and with a full cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
        found = {}
        for name in ("empty cache", "full cache"):
            words = [sys.executable, __file__, "--first"]
            done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
            found[name] = float(done.stdout.split()[-1])
    return found


def _first() -> None:
    torch.set_num_threads(1)
    s = setting(Case(64, 64, 5))
    begun = time.process_time()
    s.gradients(equifuse(s))
    print(time.process_time() - begun)


# ---- tables -------------------------------------------------------------------------------------------------------


def step_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Milliseconds of every contender, how often equifuse's, and the errors."""

    def cells(found: dict[str, dict[str, float]]) -> list[str]:
        ours = found["equifuse"]

        def time_of(name: str) -> str:
            return "-" if name not in found else f"{found[name]['ms']:.1f} ({found[name]['ms'] / ours['ms']:.1f})"

        errors = " / ".join(f"{found[name]['error']:.0e}" for name in CONTENDERS if name in found)
        others = [time_of(name) for name in CONTENDERS if name != "equifuse"]
        return [f"{ours['ms']:.1f}", *others, f"{ours['products']:.1f}", f"{ours['operations']:.0f}", errors]

    header = ["B/d/M, weights", *CONTENDERS, "products", "operations", "errors of gradients"]
    return to_markdown(header, [[name, *cells(found)] for name, found in results.items()])


def other_table(record: dict[str, Any]) -> str:
    """What is no training step of the fusion alone."""
    row, memory, first = record["one row"], record["memory"], record["first calls"]
    beside = (
        f"{row['operations']:.0f} operations; products {row['products']:.2f} ms; reference {row['reference']:.1f} ms"
    )
    rows = [
        *(
            [f"model step, batch 64, 5 modalities, width {width}", f"{t['deq']:.1f} ms", f"concat {t['concat']:.1f} ms"]
            for width, t in record["models"].items()
        ),
        ["one sample, 5 modalities of width 128, fusion of width 64", f"{row['ms']:.2f} ms", beside],
        ["peak memory, 612/500/3, 50 evaluations", f"{memory['50']:.0f} MiB", f"200: {memory['200']:.0f} MiB"],
        ["first training step", f"{first['full cache']:.1f} s", f"empty cache: {first['empty cache']:.1f} s"],
    ]
    return to_markdown(["what", "equifuse", "beside it"], rows)


def main() -> None:
    """Run, print and store the tables."""
    inner: dict[str, Callable[..., None]] = {"--worker": _worker, "--memory": _memory, "--first": _first}
    if len(sys.argv) > 1 and sys.argv[1] in inner:
        inner[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/equilibrium"))
    parser.add_argument("--quick", action="store_true", help="training steps of small sizes only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = {**describe(), "load": round(os.getloadavg()[0], 1)}
    sizes = SIZES[:3] if options.quick else SIZES
    steps = training_steps([Case(*size, weights) for size in sizes for weights in WEIGHTS])
    texts = ["Milliseconds, in brackets times equifuse's; errors in the contenders' order.", step_table(steps)]
    record: dict[str, Any] = {"machine": machine, "tolerance": TOL, "training steps": steps}
    if not options.quick:
        record |= {"models": models(), "one row": one_row(), "first calls": first_calls()}
        record["memory"] = {str(n): peak_memory(n) for n in (50, 200)}
        texts.append(other_table(record))
    record["machine"]["load after"] = round(os.getloadavg()[0], 1)
    write_json(options.out / "metrics.json", record)
    write_text(options.out / "table.md", "\n\n".join([json.dumps(machine), *texts]))
    print("\n\n".join(texts))
    print(f"written to {options.out}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", ef.ConvergenceWarning)
    main()
