"""Whether it is as often right as it says"""

import numpy as np

from equifuse.explain import calibrate
from equifuse.report import plots

random = np.random.default_rng(0)
target = random.integers(0, 3, 900)
logits = 3 * np.eye(3)[target] + 2.5 * random.normal(size=(900, 3))
found = calibrate("classification", (logits[:400], target[:400]), (logits[400:], target[400:])).summary()
figure = plots.reliability({"as it is": found["raw"], "scaled": found["scaled"]})
