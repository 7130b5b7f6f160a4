"""The pages of the service, all of them files of this package: to try a model at ``/``, the API at ``/docs``."""

from __future__ import annotations

from importlib.resources import files

_HTML, _SCRIPT, _STYLE = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"
# Path -> file, media type.
PAGES = {
    "/": ("try.html", _HTML),
    "/docs": ("docs.html", _HTML),
    "/static/try.js": ("try.js", _SCRIPT),
    "/static/docs.js": ("docs.js", _SCRIPT),
    "/static/service.js": ("service.js", _SCRIPT),
    "/static/style.css": ("style.css", _STYLE),
}


def page(path: str) -> tuple[bytes, str]:
    """The content of a page and its media type."""
    name, media_type = PAGES[path]
    return files("equifuse.serve").joinpath("static", name).read_bytes(), media_type
