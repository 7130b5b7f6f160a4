"""Trained models as files that run without this library: programs of ``torch.export`` and ONNX; and model cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.export.exporting import describe as describe
    from equifuse.export.exporting import export_model as export_model
    from equifuse.report.card import model_card as model_card

# A card is a page about a run, written by the room of reports, which is above this one: loaded when it is asked for.
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.export.exporting": ["describe", "export_model"],
        "equifuse.report.card": ["model_card"],
    },
)
