"""References to the short public names, ``equifuse.GMF``, lead to where the thing is described."""

from __future__ import annotations

from pydoc import locate
from typing import Any

from sphinx.util.nodes import make_refnode


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    target = node["reftarget"]
    wanted = locate(target) if target.startswith("equifuse.") else None
    if node.get("refdomain") != "py" or wanted is None:
        return None
    last = target.rpartition(".")[2]
    for name, entry in env.get_domain("py").objects.items():
        if name.endswith(f".{last}") and locate(name) is wanted:
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return None


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
