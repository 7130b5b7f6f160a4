"""Which fusion, for these data? Methods × data sets × seeds, tuned alike, measured honestly, told with statistics."""

from equifuse.benchmark.config import BenchmarkConfig, Method
from equifuse.benchmark.runner import read_benchmark, run_benchmark
from equifuse.benchmark.store import Store

__all__ = ["BenchmarkConfig", "Method", "Store", "read_benchmark", "run_benchmark"]
