"""Where version 0.1 had what is now :mod:`equifuse.data.split`."""

import warnings

from equifuse.data.split import partition

__all__ = ["partition"]

warnings.warn("equifuse.datasets.splitting is now equifuse.data.split", DeprecationWarning, stacklevel=2)
