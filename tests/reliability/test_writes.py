"""A disk that fills up, or a folder that closes, after the start: one line whatever is written, and nothing lost."""

import errno
import tempfile

import pytest

import equifuse as ef
from equifuse.runs import TrainConfig, train
from equifuse.runs.folder import CONFIG

pytestmark = pytest.mark.slow


def test_whatever_write_fails_is_one_line_and_the_run_goes_on_later(small_set, tmp_path, monkeypatch):
    config = TrainConfig(data=str(small_set), fusion="concat", hidden=(4,), epochs=2)
    make, names, failing = tempfile.mkstemp, [], {}

    def mkstemp(*words, prefix="", suffix="", **options):
        names.append(prefix.split("-")[0] + suffix)
        if len(names) in failing:
            raise OSError(failing.pop(len(names)), "")
        return make(*words, prefix=prefix, suffix=suffix, **options)

    monkeypatch.setattr("equifuse.report.figures.run_figures", lambda *_: {})  # they take longer than all else
    train(config, tmp_path / "whole", progress=False)
    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    train(config, tmp_path / "again", progress=False)
    weights = (tmp_path / "whole/model/model.safetensors").read_bytes()
    # Every kind of file, and the checkpoint of the second epoch.
    places = sorted({names.index(name) + 1 for name in names} | {names.index(".last.ckpt") + 2})
    assert len(places) >= 6
    for place, number in zip(places, [errno.ENOSPC, errno.EACCES, errno.EROFS] * 9, strict=False):
        out = tmp_path / f"failed{place}"
        names.clear()
        failing[place] = number
        with pytest.raises(ef.OutputError, match="written: (No space left|Permission denied|Read-only)") as said:
            train(config, out, progress=False)
        assert "\n" not in str(said.value)
        assert not (out / "metrics.json").exists()
        train(config, out, progress=False, resume=(out / CONFIG).is_file())
        assert (out / "model/model.safetensors").read_bytes() == weights
        assert list(out.rglob(".*")) == []
