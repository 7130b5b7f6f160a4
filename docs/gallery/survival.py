"""Survival by predicted risk"""

import numpy as np
import torch

from equifuse.report import plots
from equifuse.report.survival import halves

random = np.random.default_rng(0)
risk = random.normal(size=200)
time, censored = random.exponential(24 * np.exp(-risk)), random.exponential(40, 200)
target = np.stack([np.minimum(time, censored), time <= censored], axis=1)
curves, p = halves(torch.from_numpy(risk[:, None]), torch.from_numpy(target))
figure = plots.survival_curves(curves, p=p)
