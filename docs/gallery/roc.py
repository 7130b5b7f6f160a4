"""How well classes are told apart"""

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from equifuse.report import plots

data = load_breast_cancer()
x, new, y, truth = train_test_split(data.data[:, :4], data.target, random_state=0)
model = LogisticRegression(max_iter=5000).fit(x, y)
figure = plots.roc(model.predict_proba(new), truth, ["malignant", "benign"])
