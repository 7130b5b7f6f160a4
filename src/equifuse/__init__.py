"""equifuse: multimodal fusion for PyTorch. Usually ``import equifuse as ef``."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from equifuse import datasets
from equifuse.errors import (
    ConvergenceWarning,
    DataError,
    EquifuseError,
    InputError,
    NotConvergedError,
    OutputError,
    OutputExistsError,
    UnknownNameError,
)
from equifuse.fusion import (
    GMF,
    Concat,
    DEQFusion,
    EquilibriumMonitor,
    EquilibriumReport,
    FoldedGMF,
    Fusion,
    FusionOutput,
    available_fusions,
    make_fusion,
)
from equifuse.model import FusionModel, ModelOutput, build_model, load
from equifuse.solve import (
    GMRES,
    Anderson,
    Broyden,
    EquilibriumCache,
    Implicit,
    Phantom,
    Picard,
    SolverStats,
    StaticAnderson,
    Unrolled,
    fixed_point,
    jacobian_penalty,
    residual_penalty,
    spectral_penalty,
    spectral_radius,
)

if TYPE_CHECKING:
    from equifuse import estimators
    from equifuse.estimators import FusionClassifier, FusionRegressor
else:
    # They import scikit-learn, which takes longer than all the rest.
    def __getattr__(name: str) -> object:
        """Import the estimators when they are asked for."""
        if name not in ("estimators", "FusionClassifier", "FusionRegressor"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415

        estimators = import_module("equifuse.estimators")
        return estimators if name == "estimators" else getattr(estimators, name)

    def __dir__() -> list[str]:
        """Everything public, imported or not."""
        return sorted({*globals(), *__all__})


try:
    __version__ = _version("equifuse")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "GMF",
    "GMRES",
    "Anderson",
    "Broyden",
    "Concat",
    "ConvergenceWarning",
    "DEQFusion",
    "DataError",
    "EquifuseError",
    "EquilibriumCache",
    "EquilibriumMonitor",
    "EquilibriumReport",
    "FoldedGMF",
    "Fusion",
    "FusionClassifier",
    "FusionModel",
    "FusionOutput",
    "FusionRegressor",
    "Implicit",
    "InputError",
    "ModelOutput",
    "NotConvergedError",
    "OutputError",
    "OutputExistsError",
    "Phantom",
    "Picard",
    "SolverStats",
    "StaticAnderson",
    "UnknownNameError",
    "Unrolled",
    "__version__",
    "available_fusions",
    "build_model",
    "datasets",
    "estimators",
    "fixed_point",
    "jacobian_penalty",
    "load",
    "make_fusion",
    "residual_penalty",
    "spectral_penalty",
    "spectral_radius",
]
