"""Mutations of valid files, for everything that reads: one clear line, or it is read."""

import os
import random
import tempfile

import pytest

from tests.fuzz.guard import guarded
from tests.fuzz.mutations import damaged
from tests.fuzz.parsers import PARSERS
from tests.fuzz.targets import COMMANDS, TARGETS, attempt, corpus_of, make_examples

pytestmark = pytest.mark.slow

# In the suite; the campaign goes on for as long as one likes.
EXECUTIONS, SLOW_EXECUTIONS = 150, 20


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    make_examples(folder)
    return folder


@pytest.fixture
def own_temporary_folder(examples, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(examples))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.usefixtures("own_temporary_folder")
def test_damage_is_one_clear_line(name, examples):
    target = TARGETS[name]
    valid = {file: (examples / file).read_bytes() for file in target.files}
    if name == "command line":
        valid = {"words": b"train"}
    seed = os.environ.get("EQUIFUSE_FUZZ_SEED", "0")
    try:
        assert attempt(target, examples) == "read"
        for i in range(SLOW_EXECUTIONS if target.slow else EXECUTIONS):
            rng = random.Random(f"{seed} {name} {i}")
            file = rng.choice(target.files)
            content = COMMANDS.words(rng) if name == "command line" else damaged(valid[file], rng, file)
            (examples / file).write_bytes(content)
            try:
                with guarded(examples):
                    attempt(target, examples)
            except BaseException as found:
                found.add_note(f"execution {i} of seed {seed}: {file} = {content[:2000]!r}")
                raise
            for other, whole in valid.items() if target.slow else [(file, valid[file])]:
                (examples / other).write_bytes(whole)
    finally:
        for file, content in valid.items():
            (examples / file).write_bytes(content)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.usefixtures("own_temporary_folder")
def test_what_is_kept_is_one_clear_line_or_read(name, examples):
    kept = corpus_of(name)
    assert kept
    for data in kept:
        with guarded(examples):
            attempt(TARGETS[name], examples, data)
