"""equifuse: multimodal fusion for PyTorch. Usually ``import equifuse as ef``."""

from typing import TYPE_CHECKING

from equifuse._lazy import attach

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from equifuse import datasets as datasets
    from equifuse import estimators as estimators
    from equifuse.errors import ConvergenceWarning as ConvergenceWarning
    from equifuse.errors import DataError as DataError
    from equifuse.errors import EquifuseError as EquifuseError
    from equifuse.errors import InputError as InputError
    from equifuse.errors import NotConvergedError as NotConvergedError
    from equifuse.errors import OutputError as OutputError
    from equifuse.errors import OutputExistsError as OutputExistsError
    from equifuse.errors import UnknownNameError as UnknownNameError
    from equifuse.estimators import AutoFusionClassifier as AutoFusionClassifier
    from equifuse.estimators import AutoFusionRegressor as AutoFusionRegressor
    from equifuse.estimators import FusionClassifier as FusionClassifier
    from equifuse.estimators import FusionRegressor as FusionRegressor
    from equifuse.fusion import GMF as GMF
    from equifuse.fusion import Concat as Concat
    from equifuse.fusion import DEQFusion as DEQFusion
    from equifuse.fusion import EquilibriumMonitor as EquilibriumMonitor
    from equifuse.fusion import EquilibriumReport as EquilibriumReport
    from equifuse.fusion import FoldedGMF as FoldedGMF
    from equifuse.fusion import Fusion as Fusion
    from equifuse.fusion import FusionOutput as FusionOutput
    from equifuse.fusion import available_fusions as available_fusions
    from equifuse.fusion import make_fusion as make_fusion
    from equifuse.information import interactions as interactions
    from equifuse.model import FusionModel as FusionModel
    from equifuse.model import ModelOutput as ModelOutput
    from equifuse.model import build_model as build_model
    from equifuse.model import load as load
    from equifuse.solve import GMRES as GMRES
    from equifuse.solve import JFB as JFB
    from equifuse.solve import Anderson as Anderson
    from equifuse.solve import Broyden as Broyden
    from equifuse.solve import EquilibriumCache as EquilibriumCache
    from equifuse.solve import Implicit as Implicit
    from equifuse.solve import Neumann as Neumann
    from equifuse.solve import Phantom as Phantom
    from equifuse.solve import Picard as Picard
    from equifuse.solve import SolverStats as SolverStats
    from equifuse.solve import StaticAnderson as StaticAnderson
    from equifuse.solve import Unrolled as Unrolled
    from equifuse.solve import VariationalDropout as VariationalDropout
    from equifuse.solve import apply_norm as apply_norm
    from equifuse.solve import fixed_point as fixed_point
    from equifuse.solve import jacobian_penalty as jacobian_penalty
    from equifuse.solve import residual_penalty as residual_penalty
    from equifuse.solve import spectral_penalty as spectral_penalty
    from equifuse.solve import spectral_radius as spectral_radius

# Nothing is imported before it is used: PyTorch takes seconds, which `equifuse --help` has no need of.
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.datasets": [],
        "equifuse.errors": [
            "ConvergenceWarning",
            "DataError",
            "EquifuseError",
            "InputError",
            "NotConvergedError",
            "OutputError",
            "OutputExistsError",
            "UnknownNameError",
        ],
        "equifuse.estimators": [],
        "equifuse.estimators.auto": ["AutoFusionClassifier", "AutoFusionRegressor"],
        "equifuse.estimators.classifier": ["FusionClassifier"],
        "equifuse.estimators.regressor": ["FusionRegressor"],
        "equifuse.fusion": [
            "GMF",
            "Concat",
            "DEQFusion",
            "EquilibriumMonitor",
            "EquilibriumReport",
            "FoldedGMF",
            "Fusion",
            "FusionOutput",
            "available_fusions",
            "make_fusion",
        ],
        "equifuse.information.measurement": ["interactions"],
        "equifuse.model": ["FusionModel", "ModelOutput", "build_model", "load"],
        "equifuse.solve": [
            "GMRES",
            "JFB",
            "Anderson",
            "Broyden",
            "EquilibriumCache",
            "Implicit",
            "Neumann",
            "Phantom",
            "Picard",
            "SolverStats",
            "StaticAnderson",
            "Unrolled",
            "VariationalDropout",
            "apply_norm",
            "fixed_point",
            "jacobian_penalty",
            "residual_penalty",
            "spectral_penalty",
            "spectral_radius",
        ],
    },
)
__all__ += ["__version__"]
