"""What is imported when: nothing heavy before a command runs, and nothing of an extra that is not installed."""

import subprocess
import sys

import pytest

# Refuses to import some packages, as if they were not installed.
BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""
TRAIN = (
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "pyarrow",
    "h5py",
    "matplotlib",
    "jinja2",
    "typer",
    "rich",
    "yaml",
)


def python(code, *, blocked=(), check=True):
    script = BLOCK.format(blocked=set(blocked)) + code if blocked else code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["train", "--help"], ["evaluate", "--help"], ["datasets", "inspect", "--help"]]
)
def test_help_and_version_import_nothing_heavy(words):
    code = f"""
import sys
from equifuse.cli import main
try:
    main({words!r})
except SystemExit as stop:
    assert stop.code == 0
heavy = ("torch", "numpy", "lightning", "sklearn", "scipy", "rich", "matplotlib", "pyarrow")
print("heavy:", [name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    assert python(code).stderr.strip() == "heavy: []"


@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("from equifuse.training import Trainer; Trainer(epochs=1)", "training needs lightning"),
        (
            "from equifuse.files import read_yaml, Path; read_yaml(Path(__import__('equifuse').__file__))",
            "YAML needs yaml",
        ),
        ("from equifuse.runs.settings import parse_settings; parse_settings(['a=1'])", "needs yaml"),
        ("import equifuse as ef; ef.datasets.load({csv!r})", "needs pyarrow"),
    ],
)
@pytest.mark.slow
def test_what_is_missing_is_named_with_the_command_that_installs_it(code, needs, tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("a_1,a_2,y\n" + "1,2,0\n2,3,1\n" * 10)
    done = python(code.replace("{csv!r}", repr(str(path))), blocked=TRAIN, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError" in last
    assert needs in last
    assert last.endswith("pip install 'equifuse[train]'")


def test_the_command_line_without_typer_says_what_to_install():
    done = python("from equifuse.cli import main; main(['--help'])", blocked=["typer"], check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: the command line needs typer: pip install 'equifuse[train]'\n"
