"""What a training does beside taking steps: ordinary callbacks of Lightning, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.training.callbacks.checkpoint import BestWeights as BestWeights
    from equifuse.training.callbacks.checkpoint import CycleWeights as CycleWeights
    from equifuse.training.callbacks.checkpoint import LastEpoch as LastEpoch
    from equifuse.training.callbacks.deadline import Deadline as Deadline
    from equifuse.training.callbacks.equilibrium import WatchEquilibrium as WatchEquilibrium
    from equifuse.training.callbacks.history import History as History
    from equifuse.training.callbacks.information import LogInformation as LogInformation
    from equifuse.training.callbacks.progress import OnEpochEnd as OnEpochEnd
    from equifuse.training.callbacks.warm_starts import WarmStarts as WarmStarts

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.training.callbacks.checkpoint": ["BestWeights", "CycleWeights", "LastEpoch"],
        "equifuse.training.callbacks.deadline": ["Deadline"],
        "equifuse.training.callbacks.equilibrium": ["WatchEquilibrium"],
        "equifuse.training.callbacks.history": ["History"],
        "equifuse.training.callbacks.information": ["LogInformation"],
        "equifuse.training.callbacks.progress": ["OnEpochEnd"],
        "equifuse.training.callbacks.warm_starts": ["WarmStarts"],
    },
)
