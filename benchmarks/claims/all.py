"""Every claim, one after the other, and one table of the verdicts.

    python benchmarks/claims/all.py ../shared/data --out runs/claims        # 2 CPU cores: over an hour

What is in the folder already is not repeated; ``cp -r runs/grand runs/claims/trainings`` puts there what the grand
table has trained. ``claims.md`` collects the reports of the folder, also those of claims that were run one by one.
"""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from claim import RECIPE, Study

from equifuse.files import write_text
from equifuse.report.machine import processor

NAMES = ("ablations", "recursion", "pluggable", "attention", "missing", "widths", "front_end", "encoders")


def main() -> None:
    """Run all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--recipe", action="store_true", help=RECIPE)
    options = parser.parse_args()
    study = Study(options.data, options.out, options.seeds, options.recipe)
    for name in options.only:
        print(import_module(name).CLAIM.report(study), flush=True)
    found = [options.out / f"{name}.md" for name in NAMES]
    texts = [re.sub("^#", "##", path.read_text(encoding="utf-8"), flags=re.M) for path in found if path.is_file()]
    head = f"# The papers' claims, tried\n\n{datetime.now(UTC).date()}, {processor()}.\n\n"
    write_text(options.out / "claims.md", head + "\n".join(texts))


if __name__ == "__main__":
    main()
