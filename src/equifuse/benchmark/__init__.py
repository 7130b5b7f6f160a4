"""Benchmarks: methods × data sets × seeds, tuned alike, with a store that a kill does not hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.benchmark.config import BenchmarkConfig as BenchmarkConfig
    from equifuse.benchmark.config import Method as Method
    from equifuse.benchmark.presets import preset as preset
    from equifuse.benchmark.runner import read_benchmark as read_benchmark
    from equifuse.benchmark.runner import run_benchmark as run_benchmark
    from equifuse.benchmark.store import Store as Store
    from equifuse.benchmark.summary import Summary as Summary

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.benchmark.config": ["BenchmarkConfig", "Method"],
        "equifuse.benchmark.presets": ["preset"],
        "equifuse.benchmark.runner": ["read_benchmark", "run_benchmark"],
        "equifuse.benchmark.store": ["Store"],
        "equifuse.benchmark.summary": ["Summary"],
    },
)
