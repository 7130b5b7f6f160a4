"""Any module of the data layer can be the first that is imported, as a process does that is sent something of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
# Each in a child of one process that has the libraries already.
PROGRAM = """
import os, sys, traceback
import numpy, pandas, pyarrow, sklearn, torch
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(name)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_modules_of_data_are_imported_alone():
    files = sorted((SOURCE / "equifuse" / "data").rglob("*.py"))
    names = [".".join(f.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for f in files]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
