"""The errors of this library: each one that a user can cause is an :class:`EquifuseError` with one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Characters of a message; a damaged file may be quoted in it.
_LONGEST = 2000


class EquifuseError(Exception):
    """Base of all errors that this library raises on purpose; the message is always one line.

    Catch it to handle every mistake of a user at once.

    >>> try:
    ...     ef.make_fusion("sum", {})
    ... except ef.EquifuseError as error:
    ...     print(error)
    a fusion needs at least one modality
    """

    def __init__(self, message: str = "") -> None:
        line = " ".join(message.splitlines())
        if len(line) > _LONGEST:  # what is wrong is said at either end, what is quoted is in between
            line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
        super().__init__(line)


class InputError(EquifuseError, ValueError):
    """An argument, tensor or option does not fit: a wrong width or shape, a value out of range, or a bad combination.

    >>> ef.Anderson(tol=-1)
    Traceback (most recent call last):
    equifuse.errors.InputError: tol must be positive, got -1
    """


class UnknownNameError(EquifuseError, LookupError):
    """There is no modality, fusion, data set or option of this name; the message has the closest name that exists.

    >>> ef.make_fusion("weigted_sum", {"a": 3})
    Traceback (most recent call last):
    equifuse.errors.UnknownNameError: unknown fusion 'weigted_sum'; did you mean 'weighted_sum'? known: ...
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        name, known = str(name), list(known)  # a configuration may have anything in the place of a name
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or 'none'}{advice}")
        self.kind, self.name, self.known, self.advice = kind, name, known, advice

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        # Exceptions are pickled by their message, and it is not what the constructor takes.
        return type(self), (self.kind, self.name, self.known, self.advice)


class DataError(EquifuseError, ValueError):
    """A data file is missing or malformed, or holds values that cannot be used (NaN, unknown labels).

    >>> ef.datasets.load("nowhere.csv")
    Traceback (most recent call last):
    equifuse.errors.DataError: ...
    """


class OutputExistsError(EquifuseError, FileExistsError):
    """The output path already exists; nothing is overwritten unless you ask for it.

    >>> model = ef.build_model({"a": 3}, "classification", 2, fusion="concat")
    >>> model.save("model")
    >>> model.save("model")
    Traceback (most recent call last):
    equifuse.errors.OutputExistsError: ...
    """


class OutputError(EquifuseError, OSError):
    """An output cannot be written: the disk is full, or the folder is not writable. Existing files are unchanged.

    >>> issubclass(ef.OutputError, OSError)
    True
    """


class NotConvergedError(EquifuseError, ArithmeticError):
    """A fixed-point solve with ``strict=True`` did not reach its tolerance for some sample.

    >>> ef.fixed_point(lambda z: 2 * z + 1, torch.ones(1, 1), solver=ef.Picard(max_steps=5), strict=True)
    Traceback (most recent call last):
    equifuse.errors.NotConvergedError: 1 of 1 samples did not converge in the forward solve ...
    """


class ConvergenceWarning(UserWarning):
    """Some samples of a fixed-point solve did not reach the tolerance; their best iterate was returned.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     z, stats = ef.fixed_point(lambda z: 2 * z + 1, torch.ones(1, 1), solver=ef.Picard(max_steps=5))
    >>> caught[0].category.__name__, bool(stats.converged.all())
    ('ConvergenceWarning', False)
    """
