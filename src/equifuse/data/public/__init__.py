"""Public data sets that recipes are for: where their files come from, and under which licence. Nothing is fetched."""

from equifuse.data.public import features, vision
from equifuse.data.public.base import PublicFile, PublicSet

__all__ = ["PublicFile", "PublicSet", "features", "vision"]
