"""Average ranks over many data sets"""

import json
from pathlib import Path

from equifuse.benchmark.statistics import cliques
from equifuse.report import plots

# Eight methods on 24 sets.
found = json.loads((Path(__file__).parents[2] / "results/grand/summary.json").read_text())["ranking"]
ranks = dict(sorted(found["ranks"].items(), key=lambda item: item[1]))
figure = plots.critical_difference(ranks, found["critical"], cliques(list(ranks.values()), found["critical"]))
