"""A score beside what it is compared with"""

from equifuse.report import plots

figure = plots.compared(
    {"deq": (0.939, 0.886, 0.974), "most frequent class": (0.632, None, None), "linear model": (0.939, 0.895, 0.974)},
    "accuracy",
    percent=True,
)
