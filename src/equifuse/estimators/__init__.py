"""Fusion models as scikit-learn estimators. Lightning is imported when one is fitted."""

from equifuse.estimators.auto import AutoFusionClassifier, AutoFusionRegressor
from equifuse.estimators.classifier import FusionClassifier
from equifuse.estimators.layout import stack
from equifuse.estimators.regressor import FusionRegressor

__all__ = ["AutoFusionClassifier", "AutoFusionRegressor", "FusionClassifier", "FusionRegressor", "stack"]
