"""What can go wrong, by name; every error a user can cause is an :class:`EquifuseError` with one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Characters of a message; a damaged file may be quoted in it.
_LONGEST = 2000


class EquifuseError(Exception):
    """Base of every error this library raises on purpose; its message is one line, whatever names it quotes."""

    def __init__(self, message: str = "") -> None:
        line = " ".join(message.splitlines())
        if len(line) > _LONGEST:  # what is wrong is said at either end, what is quoted is in between
            line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
        super().__init__(line)


class InputError(EquifuseError, ValueError):
    """An argument, tensor or option does not fit: wrong width, shape, range, or an unusable combination."""


class UnknownNameError(EquifuseError, LookupError):
    """A modality, fusion, data set or option that does not exist; the message names the nearest one that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or 'none'}{advice}")
        self.kind, self.name, self.known, self.advice = kind, name, known, advice

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        # Exceptions are pickled by their message, and it is not what the constructor takes.
        return type(self), (self.kind, self.name, self.known, self.advice)


class DataError(EquifuseError, ValueError):
    """A data file is missing, malformed, or holds values that cannot be used (NaN, bad labels)."""


class OutputExistsError(EquifuseError, FileExistsError):
    """An output path already exists; nothing is ever overwritten without being asked to."""


class OutputError(EquifuseError, OSError):
    """An output cannot be written: a full disk, a folder that may not be written to. What was there is untouched."""


class NotConvergedError(EquifuseError, ArithmeticError):
    """A fixed-point solve with ``strict=True`` did not reach its tolerance for some sample."""


class ConvergenceWarning(UserWarning):
    """Some samples of a fixed-point solve did not reach the tolerance; their best iterate was returned."""
