"""Trained models as files that run without this library, programs of ``torch.export`` and ONNX; and model cards."""

from equifuse.export.exporting import describe, export_model
from equifuse.report.card import model_card

__all__ = ["describe", "export_model", "model_card"]
