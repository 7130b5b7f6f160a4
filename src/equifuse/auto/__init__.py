"""The best model for the data at hand within a time: many methods are tried, and the best are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.auto.options import PRESETS as PRESETS
    from equifuse.auto.options import Preset as Preset
    from equifuse.auto.portfolio import Candidate as Candidate
    from equifuse.auto.result import AutoResult as AutoResult
    from equifuse.auto.result import Entry as Entry
    from equifuse.auto.run import auto as auto

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.auto.options": ["PRESETS", "Preset"],
        "equifuse.auto.portfolio": ["Candidate"],
        "equifuse.auto.result": ["AutoResult", "Entry"],
        "equifuse.auto.run": ["auto"],
    },
)
