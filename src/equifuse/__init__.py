"""equifuse: multimodal fusion for PyTorch. Usually ``import equifuse as ef``."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from equifuse import datasets
from equifuse.errors import (
    ConvergenceWarning,
    DataError,
    EquifuseError,
    InputError,
    NotConvergedError,
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
    "FusionModel",
    "FusionOutput",
    "Implicit",
    "InputError",
    "ModelOutput",
    "NotConvergedError",
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
    "fixed_point",
    "jacobian_penalty",
    "load",
    "make_fusion",
    "residual_penalty",
    "spectral_penalty",
    "spectral_radius",
]
