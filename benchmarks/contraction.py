"""What the guaranteed contraction costs in accuracy: deq without and with it, the same seeds and settings.

    python benchmarks/contraction.py ../shared/data/rosmap.npz ../shared/data/mosi_utterance.npz --out runs/contraction

Model selection is by the validation loss; the settings are those of ``rosmap.py`` for ROSMAP and the defaults for the
others. Test is measured once per model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from equifuse.report.tables import plus_minus
from equifuse.training.comparison import compare
from rosmap import SETTINGS
from tables import publish

METHODS: dict[str, dict[str, Any]] = {
    "deq": {"fusion": "deq"},
    "deq, contraction 0.9": {"fusion": "deq", "fusion_options": {"contraction": 0.9}},
    "deq, contraction 0.5": {"fusion": "deq", "fusion_options": {"contraction": 0.5}},
}


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
        summary = compare(
            options.out / name,
            METHODS,
            {"data": data, **(SETTINGS if name == "rosmap" else {})},
            seeds=options.seeds,
            resume=options.resume,
            processes=options.processes,
        )
        rows += [
            [
                name,
                label,
                *(plus_minus(method[metric]) for metric in ("accuracy", "f1_macro")),
                f"{100 * method['converged']:.1f} %",
                f"{method['mean_steps_at_start']:.1f}",
                f"{method['mean_steps']:.1f}",
            ]
            for label, method in summary["methods"].items()
        ]
    header = ["data", "method", "accuracy %", "macro-F1 %", "converged", "steps at start", "steps after training"]
    publish(options.out, header, rows)


if __name__ == "__main__":
    main()
