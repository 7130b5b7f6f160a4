"""Images as files, and features of their regions as public feature sets lay them out; read as they are needed."""

from equifuse.data.vision.base import ImageTable, image_keys, open_images
from equifuse.data.vision.pictures import Pictures, decoded
from equifuse.data.vision.regions import RegionFiles, RegionHDF5, RegionTSV

__all__ = [
    "ImageTable",
    "Pictures",
    "RegionFiles",
    "RegionHDF5",
    "RegionTSV",
    "decoded",
    "image_keys",
    "open_images",
]
