"""Work killed at any moment goes on as if it had not been, and leaves nothing half-written.

The children are forked from a process that has imported everything, so that most of their time is spent on the work.
"""

import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
    import os, random, signal, sys, time, warnings
    from pathlib import Path
    import torch
    import equifuse.training.callbacks.equilibrium, equifuse.training.trainer
    import equifuse.report.figures, matplotlib.backends.backend_agg, sklearn.metrics
    from equifuse.benchmark import BenchmarkConfig, run_benchmark
    from equifuse.data.conversion import convert
    from equifuse.runs import TrainConfig, predict_run, train
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def attempt(work, longest):
        \"\"\"Fork, work, kill after a random time; whether the work was done before.\"\"\"
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        end = time.monotonic() + random.uniform(0.02, longest)
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0, status
                return True
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False

    def until_done(work, longest, check, kills):
        \"\"\"Attempts until the work is done, then once more unharmed; how often it was killed.\"\"\"
        killed = 0
        while killed < kills:
            if attempt(work, longest):
                break
            killed += 1
            check()
        assert attempt(work, 600.0)
        return killed
"""


def run(body, *arguments):
    """Run a script in a process of its own; what it printed last, as JSON."""
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(body)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def partial_files(folder):
    """Names that only exist while something is written."""
    return [p.name for p in folder.rglob(".*")]


def test_training_goes_on_from_the_last_epoch_bit_for_bit(small_set, tmp_path):
    found = run(
        """
        import json
        data, folder = sys.argv[1], Path(sys.argv[2])
        random.seed(int(sys.argv[3]))
        config = TrainConfig(data=data, fusion="gmf", hidden=(16,), epochs=25, batch_size=16, patience=25)
        seen = []

        def epochs(out):
            if not (out / "checkpoints/last.ckpt").is_file():
                return 0
            state = torch.load(out / "checkpoints/last.ckpt", weights_only=True)  # whole, and plain
            return len(state["equifuse"]["history"])

        def check():
            import yaml
            if (out / "config.yaml").exists():
                assert TrainConfig.from_dict({k: v for k, v in yaml.safe_load((out / "config.yaml").read_text()).items()
                                              if k != "run"}) == config
            for name in ("metrics.json", "history.json"):
                if (out / name).exists():
                    json.loads((out / name).read_text())
            now = epochs(out)
            assert now >= (seen[-1] if seen else 0), "a finished epoch was lost"
            seen.append(now)

        total = runs = 0
        while total < 20:
            out, seen = folder / f"killed{runs}", []
            total += until_done(lambda: train(config, out, resume=(out / "config.yaml").is_file(), progress=False),
                                0.7, check, 12)
            runs += 1
        train(config, folder / "whole", progress=False)
        print(json.dumps(runs))
        """,
        small_set,
        tmp_path,
        random.randrange(10**6),
    )
    whole = json.loads((tmp_path / "whole/history.json").read_text())
    weights = (tmp_path / "whole/model/model.safetensors").read_bytes()
    for number in range(found):
        history = json.loads((tmp_path / f"killed{number}/history.json").read_text())
        assert len(history) == len(whole)
        for a, b in zip(history, whole, strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
        assert (tmp_path / f"killed{number}/model/model.safetensors").read_bytes() == weights
        assert partial_files(tmp_path / f"killed{number}") == []


def test_a_killed_benchmark_repeats_nothing_that_is_finished(small_set, tmp_path):
    found = run(
        """
        import json, sqlite3
        data, folder = sys.argv[1], Path(sys.argv[2])
        random.seed(int(sys.argv[3]))
        config = BenchmarkConfig.from_dict({"data": data, "methods": ["gmf", "concat", "linear"], "seeds": 6,
                                            "settings": {"hidden": 16, "epochs": 5}})
        out, seen = folder / "out", []

        def keys():
            if not (out / "store.sqlite").is_file():
                return {}
            with sqlite3.connect(out / "store.sqlite") as database:
                try:
                    return dict(database.execute("SELECT key, info FROM units"))
                except sqlite3.OperationalError:  # killed before there was a table
                    return {}

        def check():
            now = keys()
            assert all(now.get(key) == info for key, info in (seen[-1] if seen else {}).items())
            seen.append(now)

        total = runs = 0
        while total < 5:
            out, seen = folder / f"out{runs}", []
            total += until_done(lambda: run_benchmark(config, out, resume=(out / "store.sqlite").is_file(), workers=0,
                                                      progress=False), 1.5, check, 12)
            runs += 1
            assert len(keys()) == 18
            assert all(keys()[key] == info for key, info in (seen[-1] if seen else {}).items())
        print(json.dumps(runs))
        """,
        small_set,
        tmp_path,
        random.randrange(10**6),
    )
    assert found
    assert partial_files(tmp_path) == []


@pytest.mark.parametrize("work", ["predict", "convert"])
def test_an_output_is_there_whole_or_not_at_all(work, small_set, tmp_path):
    found = run(
        """
        import json
        import numpy as np
        work, data, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
        random.seed(int(sys.argv[4]))
        rows = 20000
        x = {"a": np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32),
             "b": np.random.default_rng(1).normal(size=(rows, 2, 2)).astype(np.float32)}
        if work == "predict":
            train(TrainConfig(data=data, fusion="gmf", hidden=(16,), epochs=1), folder / "run", progress=False)
            np.savez(folder / "new.npz", **x)
            out = folder / "predictions.parquet"
            once = lambda: predict_run(folder / "run", folder / "new.npz", out)
        else:
            y = np.arange(rows) % 2
            np.savez(folder / "new.npz", modalities=np.array(["a", "b"]), task=np.array("classification"), y=y,
                     train_idx=np.arange(rows // 2), test_idx=np.arange(rows // 2, rows), **x)
            out = folder / "converted.hdf5"
            once = lambda: convert(folder / "new.npz", out)

        killed = half = 0
        while killed < 15:
            if attempt(once, 0.5 if work == "predict" else 0.25):
                assert out.is_file()
                out.unlink()
            else:
                killed += 1
                half += out.exists()
                out.unlink(missing_ok=True)
        assert attempt(once, 600.0)
        print(json.dumps([killed, half]))
        """,
        work,
        small_set,
        tmp_path,
        random.randrange(10**6),
    )
    # Killed after it was put in its place, but before it ended, the file is whole; it was never seen otherwise.
    assert found[0] == 15
    assert partial_files(tmp_path) == []
    assert Path(tmp_path / ("predictions.parquet" if work == "predict" else "converted.hdf5")).stat().st_size > 10_000


def test_a_killed_prediction_of_shards_goes_on_with_the_next(small_set, tmp_path):
    killed = run(
        """
        import json
        import numpy as np
        from equifuse.runs import predict_shards
        from pyarrow import parquet
        data, folder = sys.argv[1], Path(sys.argv[2])
        random.seed(int(sys.argv[3]))
        train(TrainConfig(data=data, fusion="gmf", hidden=(16,), epochs=1), folder / "run", progress=False)
        (folder / "shards").mkdir()
        for i in range(12):
            generator = np.random.default_rng(i)
            np.savez(folder / f"shards/{i}.npz", a=generator.normal(size=(3000, 6)).astype(np.float32),
                     b=generator.normal(size=(3000, 2, 2)).astype(np.float32))
        seen = {}

        def check():
            for path in out.glob("[0-9]*.parquet"):
                assert parquet.ParquetFile(path).metadata.num_rows == 3000
                stamp = path.stat().st_mtime_ns
                assert seen.setdefault(path, stamp) == stamp, "a finished shard was repeated"

        total = runs = 0
        while total < 5:
            out, seen = folder / f"out{runs}", {}
            once = lambda: predict_shards(folder / "run", folder / "shards", out, workers=0, progress=False,
                                          resume=out.exists())
            total += until_done(once, 0.4, check, 8)
            check()
            assert len(list(out.glob("[0-9]*.parquet"))) == 12
            runs += 1
        print(json.dumps(total))
        """,
        small_set,
        tmp_path,
        random.randrange(10**6),
    )
    assert killed >= 5
    assert partial_files(tmp_path) == []
