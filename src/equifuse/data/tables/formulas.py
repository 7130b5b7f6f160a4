"""Text that a spreadsheet would run as a formula: escaped where tables are written, taken back where they are read."""

from __future__ import annotations

# What spreadsheets take for the beginning of a formula.
_BEGINS = ("=", "+", "-", "@", "\t", "\r")
_MARK = "'"


def escaped(text: str) -> str:
    """The text, with an apostrophe in front where a spreadsheet would take it for a formula; numbers stay as they are.

    >>> [escaped(text) for text in ("=1+1", "-5.2", "'=1+1", "it's")]
    ["'=1+1", '-5.2', "''=1+1", "it's"]
    """
    return _MARK + text if _is_dangerous(text) else text


def unescaped(text: str) -> str:
    """What :func:`escaped` was given.

    >>> [unescaped(text) for text in ("'=1+1", "-5.2", "''=1+1", "'tis")]
    ['=1+1', '-5.2', "'=1+1", "'tis"]
    """
    return text[1:] if text.startswith(_MARK) and _is_dangerous(text[1:]) else text


def _is_dangerous(text: str) -> bool:
    """Whether the text, or what is behind its apostrophes, begins a formula; so that escaping can be taken back."""
    text = text.lstrip(_MARK)
    if not text.startswith(_BEGINS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
