"""Every claim, one after the other, and one table of the verdicts.

    python benchmarks/claims/all.py ../shared/data --out runs/claims        # 2 CPU cores: over an hour

What is in the folder already is not repeated; ``cp -r runs/grand runs/claims/trainings`` puts there what the grand
table has trained.
"""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

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
    options = parser.parse_args()
    texts = []
    for name in options.only:
        texts.append(import_module(name).CLAIM.report(options.data, options.out, options.seeds))
        print(texts[-1], flush=True)
        head = f"# The papers' claims, tried\n\n{processor()}; {options.seeds} seeds.\n\n"
        write_text(options.out / "claims.md", head + "\n".join(re.sub("^#", "##", text, flags=re.M) for text in texts))


if __name__ == "__main__":
    main()
