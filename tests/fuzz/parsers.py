"""What reads bytes from memory: the parts of the service that see what clients send, and texts of options and tables.

They take microseconds where reading a file takes milliseconds, so that a campaign gets far with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

from starlette.requests import Request
from uvicorn import Config
from uvicorn.server import ServerState

import equifuse as ef
from equifuse.data.columns import Column
from equifuse.data.tables.dialect import columns_like, sniff
from equifuse.data.tables.formulas import escaped, unescaped
from equifuse.runs.settings import parse_settings
from equifuse.serve.connections import protocol_of
from equifuse.serve.limits import Limits, Refusal
from equifuse.serve.messages import FromWorker, Served, answer_of, frame
from equifuse.serve.messages import Loaded as LoadedMessage
from equifuse.serve.negotiation import sent, wanted
from equifuse.serve.request_parsing import rows_of_json
from equifuse.serve.schema import RequestFormat

LIMITS = Limits(max_bytes=2**16)
SHAPES = {"a": (3,), "b": (2,), "s": (4, 2)}
CELLS = {"b": (Column("sex", "category", ("f", "m")), Column("age"))}
FORMS = (
    RequestFormat({"a": (3,), "b": (2,)}, (), 100),
    RequestFormat(SHAPES, ("s",), 100, CELLS, {"a": ("a1", "a2", "a3"), "b": ("sex", "age")}),
)
BODIES = (
    {"inputs": {"a": [[1, 2.5, -3e2], None], "b": [[0, 1], [None, 2]]}},
    {"inputs": {"s": [[[1, 2]], [[3, 4], [5, 6]]], "b": [["f", 1], {"age": 3}]}, "lengths": {"s": [1, 2]}},
    {"records": [{"a1": 1, "a2": 2, "sex": "m", "id": "p1"}, {"age": 1.5, "id": 2}]},
)


def json_body(data: bytes) -> None:
    """Whatever is sent, rows are within the limits and numbers finite, or it is refused."""
    for form in FORMS:
        with contextlib.suppress(ef.EquifuseError):
            split = rows_of_json(data, form, LIMITS)
            assert 0 < len(split) <= form.max_rows
            for m, x in split.inputs.items():
                assert x[:].shape[1:][-1:] == form.shapes[m][-1:]


def headers(data: bytes) -> None:
    """What is sent and wanted, of any headers."""
    lines = [line.partition(b":") for line in data.split(b"\n")]
    scope = {"type": "http", "headers": [(name.strip().lower(), value.strip()) for name, _, value in lines]}
    for read in (sent, lambda request: wanted(request, ("application/json", "text/csv"))):
        with contextlib.suppress(Refusal):
            assert read(Request(scope))


class _Loop:
    """A loop that never runs what it is given."""

    def create_task(self, work: Any, **_: Any) -> asyncio.Future[None]:
        """Forget the work."""
        work.close()
        return _Task()  # type: ignore[return-value]

    def call_later(self, *_: Any) -> Any:
        """A timer that does not go off."""
        return _Task()


class _Task:
    def add_done_callback(self, _: Any) -> None:
        """It is never done."""

    def cancel(self) -> None:
        """It does nothing."""


class _Transport:
    """A connection without a client."""

    def __init__(self) -> None:
        self.closing = False

    def write(self, data: bytes) -> None:
        """Nobody reads it."""
        assert data

    def close(self) -> None:
        """It is closed."""
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.closing

    def get_extra_info(self, _: str) -> None:
        """Nothing is known."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """More could not come."""

    resume_reading = pause_reading


async def _answered(*_: Any) -> None:
    """An application that is never asked."""


@cache
def _config() -> Config:
    quiet: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False, "interface": "asgi3"}
    config = Config(_answered, http=protocol_of(LIMITS), ws="none", **quiet)
    config.load()
    return config


def connection(data: bytes) -> None:
    """Bytes of a connection, in pieces: refused or understood, never an error of ours, and no head without end."""
    state = ServerState()
    protocol = protocol_of(LIMITS)(_config(), state, {}, _Loop())  # type: ignore[arg-type]
    protocol.logger.disabled = True
    transport = _Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]
    size = 1 + len(data) % 97
    for start in range(0, len(data), size):
        if transport.closing:
            break
        protocol.data_received(data[start : start + size])
    protocol.connection_lost(None)
    assert not state.connections


def answer(data: bytes) -> None:
    """What a worker says that was taken over by what it read."""
    with contextlib.suppress(EOFError):
        assert isinstance(answer_of(data), FromWorker)


def cell(data: bytes) -> None:
    """Text that is escaped for a spreadsheet is inert there, and comes back."""
    text = data.decode("utf-8", "replace")
    written = escaped(text)
    assert unescaped(written) == text
    if written.startswith(("=", "+", "-", "@", "\t", "\r")):
        assert not math.isnan(float(written) * 0) or math.isinf(float(written)) or math.isnan(float(written))


def settings(data: bytes) -> None:
    """Words such as ``solver=anderson`` after ``--set``."""
    with contextlib.suppress(ef.InputError):
        parse_settings(data.decode("utf-8", "replace").split("\n"))


def dialect(data: bytes) -> None:
    """How a table in text is written."""
    with contextlib.suppress(ef.DataError):
        columns_like(sniff(data, "a table", whole=True))


_SERVED = Served({"task": "classification"}, {"predict": {}}, {"predict": {}}, [], ["no", "yes"])
# Name -> valid bytes, and what reads them.
PARSERS: dict[str, tuple[tuple[bytes, ...], Callable[[bytes], None]]] = {
    "body, json": (tuple(json.dumps(body).encode() for body in BODIES), json_body),
    "headers": ((b"Content-Type: application/json; charset=utf-8\nAccept: text/csv;q=0.5, */*;q=0.1",), headers),
    "connection": (
        (
            b"POST /predict?without=a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
        connection,
    ),
    "answer of a worker": ((bytes(frame(LoadedMessage({"m": _SERVED}, {"python": "3"}))[4:]),), answer),
    "cell": ((b"=1+1", b"'-5.2", b"@x"), cell),
    "settings": ((b"solver.tol=1e-3\nname='x'\ndim=8\nhidden=[4, 4]",), settings),
    "dialect": ((b'id;"a b";c\n007;1,5;x\n008;2,25;y\n', b"# made\na,b\n1.5,NA\n"), dialect),
}
