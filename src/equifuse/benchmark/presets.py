"""Benchmarks that are ready to run, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from equifuse.benchmark.config import BenchmarkConfig, Method
from equifuse.benchmark.runner import run_benchmark
from equifuse.benchmark.summary import Summary
from equifuse.errors import UnknownNameError

# Chosen so that the whole demonstration takes seconds, and no method falls short of what it can do by much.
_DEMO: dict[str, Any] = {"hidden": [64], "dropout": 0.1, "batch_size": 256, "lr": 1e-2, "epochs": 5, "patience": 5}
_DEMO_WIDTH = 32


def four_methods(dim: int | None = None) -> tuple[Method, ...]:
    """The methods at the library's heart, and plain concatenation, with a common width of the equilibria.

    Example:
        >>> [method.label for method in four_methods(32)]
        ['deq', 'gmf', 'gmf+deq', 'concat']
    """
    width = {} if dim is None else {"dim": dim}
    return (
        Method("deq", {"fusion": "deq", **width}),
        Method("gmf", {"fusion": "gmf"}),
        Method("gmf+deq", {"fusion": "gmf", "backend": "deq", **width}),
        Method("concat", {"fusion": "concat"}),
    )


def demo(seeds: int = 3, **settings: Any) -> BenchmarkConfig:
    """The four methods on the embedded digits, in seconds.

    Args:
        seeds: how many, ≥ 1.
        **settings: options of the trainings, in place of the preset's.
    """
    return BenchmarkConfig(("digits",), four_methods(_DEMO_WIDTH), tuple(range(seeds)), settings={**_DEMO, **settings})


PRESETS: dict[str, Callable[..., BenchmarkConfig]] = {"demo": demo}


def preset(name: str, **options: Any) -> BenchmarkConfig:
    """A benchmark by name.

    Example:
        >>> preset("demo", seeds=1).data
        ('digits',)

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name](**options)


def run_demo(
    out: Path,
    *,
    seeds: int = 3,
    epochs: int | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Summary:
    """Run the preset ``demo``; see :func:`~equifuse.benchmark.run_benchmark`.

    Args:
        out: folder to create.
        seeds: how many, ≥ 1.
        epochs: of each training; default 5.
        resume: go on with what is there.
        workers: trainings at a time.
        progress: show a bar on standard error.
    """
    config = preset("demo", seeds=seeds, **({} if epochs is None else {"epochs": epochs}))
    return run_benchmark(config, out, resume=resume, workers=workers, progress=progress)
