"""Picture files, brought to one size as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.contents import Content, Pixels
from equifuse.data.lazy import Indices
from equifuse.data.selfcontained import member
from equifuse.data.vision.base import PICTURES, ImageTable
from equifuse.errors import DataError
from equifuse.extras import require

Bytes = NDArray[np.uint8]
# Pictures are kept in memory, once they were decoded, if all of them need less than this.
_KEPT = 2**29
_THREADS = 4


def decoded(path: Path, size: int) -> Bytes:
    """A picture as bytes ``(3, size, size)``, whatever its own size and colours: it is stretched, not cropped.

    Raises:
        DataError: it is missing, or no picture.
    """
    images: Any = require("vision", "PIL.Image", "reading images")
    try:
        with images.open(path) as image:
            image.draft("RGB", (size, size))
            small = image.convert("RGB").resize((size, size), images.Resampling.BILINEAR)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except Exception as error:  # decoders fail in any way on bytes that nobody wrote
        raise DataError(f"{path} is not an image: {' '.join(str(error).split())[:200]}") from None
    return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))


class Pictures(ImageTable):
    """A folder of pictures, or a list of files.

    Args:
        path: the folder.
        size: to which each is brought.
        names: files of the folder, each a row; None for all pictures in it.
    """

    kind: ClassVar[str] = "pictures"

    def __init__(self, path: Path, size: int, names: Sequence[str] | None = None) -> None:
        found = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICTURES) if names is None else ()
        self.path, self.ids = path, list(found if names is None else names)
        self.shape, self.lengths, self.size = (3, size, size), None, size
        self.content: Content = Pixels(size)
        self._kept: Bytes | None = None
        if 3 * size * size * len(self.ids) <= _KEPT:
            self._kept = np.zeros((len(self.ids), *self.shape), dtype=np.uint8)
        self._here = np.zeros(len(self.ids), dtype=np.bool_)

    def read(self, places: Indices) -> Bytes:
        """See :meth:`ImageTable.read`."""
        if self._kept is None:
            return self._decoded(places)
        new = places[~self._here[places]]
        if len(new):
            self._kept[new] = self._decoded(new)
            self._here[new] = True
        return self._kept[places]

    def _decoded(self, places: Indices) -> Bytes:
        files = [member(self.path, self.ids[place]) for place in places]
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack(list(pool.map(lambda file: decoded(file, self.size), files)))
