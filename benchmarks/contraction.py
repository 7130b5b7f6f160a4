"""What the guaranteed contraction costs in accuracy: deq without and with it, the same seeds and settings.

    python benchmarks/contraction.py ../shared/data/rosmap.npz ../shared/data/mosi_utterance.npz --out runs/contraction

Model selection is by the validation loss; the settings are those of ``rosmap.py`` for ROSMAP and the defaults for the
others. Test is measured once per model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from equifuse.benchmark import BenchmarkConfig, Method, run_benchmark
from equifuse.report.tables import plus_minus
from rosmap import SETTINGS
from tables import publish

METHODS = (
    Method("deq", {"fusion": "deq"}),
    Method("deq, contraction 0.9", {"fusion": "deq", "fusion_options": {"contraction": 0.9}}),
    Method("deq, contraction 0.5", {"fusion": "deq", "fusion_options": {"contraction": 0.5}}),
)


def main() -> None:
    """Run, print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data sets of classification tasks")
    parser.add_argument("--out", type=Path, default=Path("runs/contraction"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    rows = []
    for data in options.data:
        name = Path(data).stem
        settings = SETTINGS if name == "rosmap" else {}
        config = BenchmarkConfig((data,), METHODS, tuple(range(options.seeds)), settings=settings)
        folder = options.out / name
        # A finished data set's folder is there already where a later one was interrupted.
        summary = run_benchmark(config, folder, resume=options.resume and folder.exists(), workers=options.processes)
        for label in summary.methods:
            measured, solved = summary.measures[name][label], summary.convergence[label]
            spreads = [(measured[metric].mean, measured[metric].deviation) for metric in ("accuracy", "f1_macro")]
            steps = [f"{solved.steps_at_start:.1f}", f"{solved.steps:.1f}"]
            rows.append([name, label, *map(plus_minus, spreads), f"{100 * solved.converged:.1f} %", *steps])
    header = ["data", "method", "accuracy %", "macro-F1 %", "converged", "steps at start", "steps after training"]
    publish(options.out, header, rows)


if __name__ == "__main__":
    main()
