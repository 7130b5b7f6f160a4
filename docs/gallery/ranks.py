"""Average ranks over many data sets"""

from equifuse.report import plots

ranks = {"late": 2.65, "gmu": 3.67, "deq": 4.12, "gmf+deq": 4.69, "concat": 4.71, "linear": 4.92, "gmf": 5.58}
figure = plots.critical_difference(ranks, 2.14, [(0, 1, 2, 3, 4), (1, 2, 3, 4, 5, 6)])
