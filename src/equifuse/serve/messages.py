"""What the front of the service and its workers tell each other: msgpack in frames that begin with their length."""

from __future__ import annotations

from typing import Any, BinaryIO

from msgspec import MsgspecError, Struct, field, msgpack

JSON, PARQUET, CSV = "application/json", "application/vnd.apache.parquet", "text/csv"
# Bytes that say how long a frame is.
HEAD = 4


class Settings(Struct, array_like=True, tag=True):
    """The first message to a worker.

    Attributes:
        runs: name -> run folder.
        limits: of a request.
        explain: whether there are explanations.
        share: the worker gets one of so many parts of the threads.
    """

    runs: dict[str, str]
    limits: dict[str, int | float]
    explain: bool
    share: int


class Served(Struct, array_like=True):
    """One model of a worker that is ready.

    Attributes:
        description: what ``/model`` answers.
        requests: path -> JSON schema of its body.
        responses: path -> JSON schema of its answer.
        values: what can be explained of a row.
        outputs: of which classes, labels or targets.
    """

    description: dict[str, Any]
    requests: dict[str, dict[str, Any]]
    responses: dict[str, dict[str, Any]]
    values: list[str]
    outputs: list[str]


class Loaded(Struct, array_like=True, tag=True):
    """A worker is ready: its models by name, and the versions of what it runs on."""

    models: dict[str, Served]
    versions: dict[str, str]


class Failed(Struct, array_like=True, tag=True):
    """A worker cannot start, and why."""

    message: str


class Question(Struct, array_like=True):
    """One request.

    Attributes:
        kind: predict, explain or embed.
        body: rows.
        sent: media type of the body.
        wanted: media type of the answer.
        options: the query: name -> values.
        id: of the request, for the log.
    """

    kind: str
    body: bytes
    sent: str
    wanted: str = JSON
    options: dict[str, list[str]] = field(default_factory=dict)
    id: str = ""


class Job(Struct, array_like=True, tag=True):
    """Requests for one model that are answered together."""

    model: str
    questions: list[Question]


class Answer(Struct, array_like=True):
    """The answer to one request.

    Attributes:
        status: of HTTP.
        content: the body.
        media_type: of the body.
        rows: that were predicted.
        unconverged: how many of them did not converge.
    """

    status: int
    content: bytes
    media_type: str = JSON
    rows: int = 0
    unconverged: int = 0


class Done(Struct, array_like=True, tag=True):
    """The answers to a job, in its order."""

    answers: list[Answer]


ToWorker = Settings | Job
FromWorker = Loaded | Failed | Done
_to_worker: msgpack.Decoder[ToWorker] = msgpack.Decoder(ToWorker)
_from_worker: msgpack.Decoder[FromWorker] = msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytearray:
    """A message as bytes, with their number in front."""
    buffer = bytearray(HEAD)
    msgpack.Encoder().encode_into(message, buffer, HEAD)
    buffer[:HEAD] = (len(buffer) - HEAD).to_bytes(HEAD, "big")
    return buffer


def read_frame(stream: BinaryIO) -> ToWorker | None:
    """The next message to a worker; None where there are no more."""
    head = stream.read(HEAD)
    if len(head) < HEAD:
        return None
    content = stream.read(int.from_bytes(head, "big"))
    return _to_worker.decode(content)


def answer_of(content: bytes) -> FromWorker:
    """A message from a worker, without the number in front.

    Raises:
        EOFError: it is none: what a worker says that was taken over by what it read is as good as nothing.
    """
    try:
        return _from_worker.decode(content)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        raise EOFError from None
