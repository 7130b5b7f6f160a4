"""What a format of data sets is, and which one a path is in."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from equifuse.data.dataset import MultimodalDataset
from equifuse.data.options import SourceOptions
from equifuse.data.tables import container
from equifuse.errors import DataError, EquifuseError
from equifuse.registry import FORMATS

if TYPE_CHECKING:
    from equifuse.data.external import Rows, Wanted

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


class Format(ABC):
    """Base class of the formats of data sets: how a file or folder is recognised, and how it is read.

    A format of one's own is a subclass, registered by :data:`equifuse.registry.FORMATS` or by an entry point of the
    group ``equifuse.formats``; every command that takes a path then reads it.

    Example:
        >>> import numpy as np
        >>> from equifuse.data import Split
        >>> from equifuse.data.assemble import assemble
        >>> from equifuse.data.formats import Format
        >>> class Toy(Format):
        ...     name = "toy"
        ...     description = "toy file (.toy)"
        ...     def detect(self, path):
        ...         return path.suffix == ".toy"
        ...     def read(self, path, options, *, val_fraction, seed):
        ...         values = np.loadtxt(path, dtype=np.float32, ndmin=2)
        ...         whole = Split({"a": values[:, :1], "b": values[:, 1:2]}, target=values[:, 2].astype(int))
        ...         return assemble(path.stem, whole, "classification", {}, val_fraction=val_fraction, seed=seed)

    Attributes:
        name: by which it is registered.
        description: what messages call it, such as ``".npz with one array per modality"``.
        priority: formats are asked from the highest to the lowest, and the first that recognises a path reads it;
            default 0. What is special comes before what is general.
        whole: whether a folder is one set of samples, which is predicted as a whole and not file by file.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    priority: ClassVar[int] = 0
    whole: ClassVar[bool] = False

    @abstractmethod
    def detect(self, path: Path) -> bool:
        """Whether a file or folder, which exists, is in this format."""

    @abstractmethod
    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read the data set.

        Args:
            path: of the file or folder.
            options: what the user says about it; ``options.refuse("a toy file")`` refuses those that mean nothing here.
            val_fraction: share of the training part that is validated on, where the file does not say, in (0, 1).
            seed: of that choice.

        Raises:
            DataError: the file is damaged, or its content does not fit together.
            InputError: an option is missing or means nothing here.
        """

    def rows(
        self, path: Path, wanted: Wanted, options: SourceOptions, *, labelled: bool, split: str | None
    ) -> Rows | None:
        """Rows for a trained model, where those of :meth:`read` would not do; by default there is no such thing.

        Args:
            path: of the file or folder.
            wanted: what the model needs.
            options: what the user says about it.
            labelled: whether targets are needed.
            split: take this part alone; None for all.

        Returns:
            The rows, or None.
        """
        return None


def known_formats() -> list[Format]:
    """All formats, those of installed packages among them, in the order in which they are asked about a path."""
    return sorted((kind() for kind in FORMATS.parts()), key=lambda known: (-known.priority, known.name))


def chosen_format(path: Path, options: SourceOptions) -> Format:
    """The format that is asked for, or else that of the path, with its options.

    Raises:
        DataError: there is nothing at the path, or it is in none of the formats.
        UnknownNameError: an option that the format does not have.
        InputError: one that it cannot use.
    """
    if options.format is not None and not path.exists():
        raise DataError(f"no such file: {path}")
    name = options.format or find_format(path).name
    made: Format = FORMATS.make(name, **options.format_options)
    return made


def is_one_set(path: Path) -> bool:
    """Whether a path is one set of samples: a file, or a folder in a format that is not read file by file.

    Args:
        path: that exists.
    """
    if not path.is_dir():
        return True
    try:
        return find_format(path).whole
    except DataError:
        return False


def find_format(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        DataError: there is nothing, or it is in none of the formats.

    Warns:
        UserWarning: another package's format fails to look at it; it is passed over.
    """
    if not path.exists():
        raise DataError(f"no such file: {path}")
    if path.suffix in _PICKLES:
        raise DataError(
            f"{path} is a pickle, which could run any code when it is read; if it is a file of MMSA, "
            f"'equifuse datasets convert {path} data.hdf5' makes plain data of it"
        )
    formats = known_formats()
    for known in formats:
        try:
            fits = known.detect(path)
        except (EquifuseError, OSError):
            raise
        except Exception as error:
            warnings.warn(f"format {known.name!r} is passed over, it fails on {path}: {error!r}", stacklevel=2)
            continue
        if fits:
            return known
    known_kinds = "; ".join(known.description for known in formats)
    if said := container(path):
        raise DataError(f"{said}; known are: {known_kinds}")
    raise DataError(f"{path}: unknown kind of file {path.suffix!r}; known are: {known_kinds}")
