"""Predicted against true values"""

from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from equifuse.report import plots

x, y = load_diabetes(return_X_y=True)
model = Ridge(alpha=0.1).fit(x[:300], y[:300])
figure = plots.predicted_against_true(model.predict(x[300:]), y[300:], "progression")
