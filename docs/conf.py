"""How the documentation is built: ``make docs``, without any network, warnings as errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "extensions"), str(HERE.parent / "tools")]

import equifuse  # noqa: E402

project = "equifuse"
author = "The equifuse authors"
copyright = author
version = release = equifuse.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "mathml", "names", "generated"]
exclude_patterns = ["_build"]
nitpicky = True
# What others document is not linked: there is no network to look it up.
# Of our own names: type variables, and what is only used inside of a room.
_INSIDE = (
    r"equifuse\.(auto\.PRESETS|detection\.boxes|fusion\.products\.|fusion\.deq\.(maps|problem|reference_weights)\b|registry\.[TR]$|kernels\b|data\.(columns|sources)\b"
    r"|encoders\.preparation\.(batches\.ByBatch|transforms\.OfNumbers)|fusion\.fitted\.FittingProblem|training\.(mix|rules)\b"
    r"|solve\.(maps|adjoint|loop|layers|solver|transforms|scope)\b|.*\._)[\w.]*"
)
nitpick_ignore_regex = [("py:.*", r"(?!equifuse\b).*"), ("py:(class|obj|func|mod)", _INSIDE)]
# Named where they are used, without a page of their own in the reference.
nitpick_ignore_regex += [
    ("py:data", r"equifuse\.(auto\.PRESETS|data\.media\.SOUNDS|registry\.RAW_COLUMNS)"),
    ("py:.*", r"equifuse\.(data\.tables\.base\.Table|fusion\.deq\.tokens\.CoupledMap)"),
    ("py:.*", r"equifuse\.(runs\.distill\.Compared|tasks\.teaching\.SoftTargets)"),
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
suppress_warnings = ["config.cache"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"equifuse {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
# A page opened as a file may not fetch the others, of which a summary would be made.
html_show_search_summary = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}


def _drawn(app: Any) -> Path:
    """Where the figures are drawn: the build writes to its own folders alone."""
    return Path(app.doctreedir) / "figures"


def _draw(app: Any) -> None:
    """The figures, new with every build."""
    import figures  # noqa: PLC0415

    figures.draw(_drawn(app))


def _run_notebooks(app: Any) -> None:
    """The case studies as notebooks, in a process of their own; ``-D run_notebooks=0`` leaves what they print out."""
    import notebooks  # noqa: PLC0415

    if app.config.run_notebooks:
        subprocess.run([sys.executable, notebooks.__file__, _drawn(app)], check=True, stdout=subprocess.DEVNULL)
    else:
        for name in notebooks.CASES:
            notebooks.write(_drawn(app), name, executed=False)


def _offer(app: Any, name: str, source: list[str]) -> None:
    """Below the title of a case study, its notebook."""
    if name.startswith("tutorials/case-"):
        title, _, rest = source[0].partition("\n")
        file = f"drawn/{name.removeprefix('tutorials/')}.ipynb"
        called = "As a notebook, with all that it printed" if app.config.run_notebooks else "As a notebook"
        source[0] = f"{title}\n\n{{download}}`{called} <{file}>`\n{rest}"


def _refer(app: Any, name: str, source: list[str]) -> None:
    """A page's ``drawn/solvers.svg`` leads to where that was drawn."""
    folder = os.path.relpath(_drawn(app), (Path(app.srcdir) / name).parent)
    for before in ("} ", "<"):
        source[0] = source[0].replace(f"{before}drawn/", f"{before}{Path(folder).as_posix()}/")


def _hide(app: Any, name: str, source: list[str]) -> None:
    """Comments of a page, which hold what tests assert and readers need not see, stay out of it."""
    source[0] = re.sub(r"^<!--.*?^-->\n", "", source[0], flags=re.DOTALL | re.MULTILINE)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_config_value("run_notebooks", True, "env")
    app.connect("builder-inited", _draw)
    app.connect("builder-inited", _run_notebooks)
    app.connect("source-read", _offer)
    app.connect("source-read", _hide)
    app.connect("source-read", _refer)
