"""Formats by their registry: which one reads a path, and a format from outside."""

import numpy as np
import pytest

import equifuse as ef
from equifuse.data import MultimodalDataset, Split
from equifuse.data.assemble import assemble
from equifuse.data.formats import Format, find_format, known_formats
from equifuse.registry import FORMATS


class Toy(Format):
    name = "toy"
    description = "toy file (.toy)"

    def detect(self, path):
        return path.suffix == ".toy"

    def read(self, path, options, *, val_fraction, seed) -> MultimodalDataset:
        options.refuse("a toy file")
        values = np.loadtxt(path, dtype=np.float32, ndmin=2)
        whole = Split({"a": values[:, :1], "b": values[:, 1:2]}, target=values[:, 2].astype(np.int64))
        return assemble(path.stem, whole, "classification", {}, val_fraction=val_fraction, seed=seed)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    FORMATS.names()
    monkeypatch.setattr(FORMATS, "_parts", dict(FORMATS._parts))
    FORMATS.register(Toy)
    path = tmp_path / "mine.toy"
    np.savetxt(path, np.c_[np.arange(40) / 7, np.ones(40), np.arange(40) % 2])
    yield path
    FORMATS._origins.pop("toy", None)


def test_every_format_has_a_name_and_a_description_of_its_own():
    formats = known_formats()
    assert len({known.name for known in formats}) == len({known.description for known in formats}) == len(formats)
    assert [known.priority for known in formats] == sorted((known.priority for known in formats), reverse=True)


def test_a_format_from_outside_is_found_and_named(toy, tmp_path):
    data = ef.datasets.load(toy)
    assert data.name == "mine"
    assert sum(len(split) for split in data.splits.values()) == 40
    with pytest.raises(ef.InputError, match="toy file"):
        ef.datasets.load(toy, source={"target": "y"})
    (tmp_path / "other.xyz").touch()
    with pytest.raises(ef.DataError, match=r"unknown kind of file '.xyz'; known are: .*toy file \(.toy\)"):
        ef.datasets.load(tmp_path / "other.xyz")


def test_a_format_that_is_asked_for_reads_with_its_options(toy):
    @FORMATS.register
    class Every(Toy):
        name = "every"

        def __init__(self, nth=1):
            self.nth = nth

        def read(self, path, options, *, val_fraction, seed):
            values = np.loadtxt(path, dtype=np.float32, ndmin=2)[:: self.nth]
            whole = Split({"a": values[:, :1]}, target=np.arange(len(values)) % 2)
            return assemble(path.stem, whole, "classification", {}, val_fraction=val_fraction, seed=seed)

    data = ef.datasets.load(toy, source={"format": "every", "format_options": {"nth": 2}})
    assert sum(len(split) for split in data.splits.values()) == 20
    with pytest.raises(ef.UnknownNameError, match="unknown option of format 'every': 'nht'; did you mean 'nth'"):
        ef.datasets.load(toy, source={"format": "every", "format_options": {"nht": 2}})
    with pytest.raises(ef.UnknownNameError, match="unknown format 'eveyr'; did you mean 'every'"):
        ef.datasets.load(toy, source={"format": "eveyr"})
    with pytest.raises(ef.DataError, match="no such file"):
        ef.datasets.load(toy.with_name("no.toy"), source={"format": "every"})
    FORMATS._origins.pop("every", None)


def test_the_higher_priority_reads(toy):
    @FORMATS.register
    class Better(Toy):
        name = "better"
        description = "better toy file (.toy)"
        priority = 5

    assert find_format(toy).name == "better"


def test_a_format_that_fails_to_look_is_passed_over_with_a_warning(toy):
    @FORMATS.register
    class Clumsy(Toy):
        name = "clumsy"
        priority = 5

        def detect(self, path):
            raise KeyError("none")

    with pytest.warns(UserWarning, match="'clumsy' is passed over"):
        assert find_format(toy).name == "toy"
