"""Public data sets that recipes are for: where their files come from, and under which licence. Nothing is fetched."""

from equifuse.data.public import features, scenes_and_clips, vision
from equifuse.data.public.base import PublicFile, PublicSet

__all__ = ["PublicFile", "PublicSet", "features", "scenes_and_clips", "vision"]
