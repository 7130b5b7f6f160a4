"""A score against what it costs"""

import json
from pathlib import Path

from equifuse.report import plots

# Eight methods on 24 sets.
found = json.loads((Path(__file__).parents[2] / "results/grand/summary.json").read_text())
points = {m: (cost["parameters"], found["ranking"]["ranks"][m]) for m, cost in found["costs"].items()}
best = [m for m, (cost, rank) in points.items() if not any(c < cost and r < rank for c, r in points.values())]
figure = plots.pareto(points, sorted(best, key=points.__getitem__), "parameters", "average rank")
