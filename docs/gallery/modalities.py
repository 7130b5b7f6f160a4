"""What each modality adds, and what is lost without it"""

from equifuse.report import plots

figure = plots.contributions(
    {"mean": 5.8, "error": 12.9, "worst": 12.0},
    "accuracy, points",
    intervals={"mean": (0.3, 11.4), "error": (7.2, 18.5), "worst": (7.9, 16.1)},
    lost={"mean": 0.0, "error": 5.3, "worst": 5.3},
)
