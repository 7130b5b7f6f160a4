"""Trained models as files that run without this library: ``torch.export`` programs, ONNX; and model cards."""

from equifuse.export.exporting import describe, export_model

__all__ = ["describe", "export_model"]
