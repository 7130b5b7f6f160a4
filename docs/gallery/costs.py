"""A score against what it costs"""

from equifuse.report import plots

points = {"late": (145_763, 2.65), "gmu": (366_582, 3.67), "deq": (374_032, 4.12), "linear": (6_185, 4.92)}
figure = plots.pareto(points, ["linear", "late"], "parameters", "average rank")
