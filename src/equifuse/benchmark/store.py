"""The store of a benchmark: one SQLite file, written by one process, whole transactions only."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equifuse.benchmark.job import Job, JobInfo, JobResult
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import atomic, parse_errors

_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS units (
    key TEXT PRIMARY KEY, data TEXT NOT NULL, method TEXT NOT NULL, seed INTEGER NOT NULL, protocol TEXT NOT NULL,
    trial INTEGER, fingerprint TEXT NOT NULL, monitor REAL, error TEXT, config TEXT NOT NULL, info TEXT NOT NULL,
    finished TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE IF NOT EXISTS scores (
    key TEXT NOT NULL REFERENCES units (key), condition TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (key, condition, metric));
"""


@dataclass(frozen=True)
class Row:
    """A finished job, read back.

    Attributes:
        key: of the job.
        data: name of the data set.
        method: the method's label.
        seed: of the training.
        protocol: how the model was selected.
        trial: number of the tuning trial, or None.
        monitor: the best validation loss, or None where the job failed.
        error: why it failed, or None.
        config: the training's configuration.
        info: see :class:`~equifuse.benchmark.job.JobInfo`.
        scores: condition -> metric -> value.
    """

    key: str
    data: str
    method: str
    seed: int
    protocol: str
    trial: int | None
    monitor: float | None
    error: str | None
    config: dict[str, Any]
    info: JobInfo
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


class Store:
    """Results of a benchmark, kept as they come; what is in it is never repeated.

    Args:
        path: the SQLite file; made if it is not there.

    Raises:
        DataError: the file is no store, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            # One statement: another process may open a new store at the same time.
            database.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(_FORMAT),))
            (found,) = database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
            if found != str(_FORMAT):
                raise DataError(f"{path} has store format {found}, this version reads {_FORMAT}")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection and a transaction: all of it, or nothing."""
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                database.executescript(_SCHEMA)
                yield database
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} cannot be used as a store: {error}") from None

    def add(self, job: Job, result: JobResult | str) -> None:
        """Keep a job's record, or the reason why there is none; replaces an earlier failure.

        Args:
            job: what was measured.
            result: its record, or an error's message.
        """
        record = None if isinstance(result, str) else result
        values = (
            job.key,
            job.data,
            job.method,
            job.config.seed,
            job.config.protocol,
            job.trial,
            job.fingerprint,
            None if record is None else record.monitor,
            result if isinstance(result, str) else None,
            json.dumps(job.config.to_dict()),
            json.dumps({} if record is None else record.info.to_dict()),
        )
        names = "key, data, method, seed, protocol, trial, fingerprint, monitor, error, config, info"
        with self._open() as database:
            database.execute(f"INSERT OR REPLACE INTO units ({names}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", values)
            database.execute("DELETE FROM scores WHERE key = ?", (job.key,))
            if record is not None:
                database.executemany(
                    "INSERT INTO scores VALUES (?, ?, ?, ?)",
                    [
                        (job.key, condition, metric, value)
                        for condition, metrics in record.scores.items()
                        for metric, value in metrics.items()
                    ],
                )

    def rows(self) -> dict[str, Row]:
        """Everything in the store by key, in the order in which it was finished."""
        columns = ("key", "data", "method", "seed", "protocol", "trial", "monitor", "error", "config", "info")
        query = f"SELECT {', '.join(columns)} FROM units ORDER BY finished, rowid"
        with parse_errors(self.path, "a store"), self._open() as database:
            found = {}
            for values in database.execute(query):
                row = dict(zip(columns, values, strict=True))
                row |= {"config": json.loads(row["config"]), "info": JobInfo.from_dict(json.loads(row["info"]))}
                found[row["key"]] = Row(**row)
            for key, condition, metric, value in database.execute("SELECT * FROM scores"):
                found[key].scores.setdefault(condition, {})[metric] = value
        return found

    def to_parquet(self, path: Path) -> None:
        """Write every score as one row of a Parquet table: data, method, seed, protocol, condition, metric, value."""
        pa = require("train", "pyarrow", "reading and writing tables")
        parquet = require("train", "pyarrow.parquet", "reading and writing tables")

        query = (
            "SELECT data, method, seed, protocol, condition, metric, value, key, fingerprint, finished "
            "FROM scores JOIN units USING (key) ORDER BY data, method, protocol, seed, condition, metric"
        )
        with self._open() as database:
            cursor = database.execute(query)
            names = [column[0] for column in cursor.description]
            columns = list(zip(*cursor, strict=True)) or [()] * len(names)
        with atomic(path) as staging:
            parquet.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), staging)
