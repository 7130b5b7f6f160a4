"""Methods on one data set"""

from equifuse.report import plots

figure = plots.methods_on_set(
    {"late": (0.902, 0.012), "deq": (0.884, 0.011), "gmf": (0.881, 0.009), "linear": (0.874, None)},
    "accuracy, %",
    best=["late", "deq"],
    factor=100,
)
