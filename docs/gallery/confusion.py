"""Which classes are taken for which"""

from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import confusion_matrix

from equifuse.report import plots

x, y = load_digits(return_X_y=True)
model = RidgeClassifier().fit(x[:1000], y[:1000])
matrix = confusion_matrix(y[1000:], model.predict(x[1000:]))
figure = plots.confusion(matrix.tolist(), [str(digit) for digit in range(10)])
