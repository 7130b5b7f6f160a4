"""What the front of the service and its workers tell each other: msgpack in frames that begin with their length.

Bodies of requests follow the frame as they are, in the pieces that they came in: the front copies none of them, as that
would keep all other connections waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from msgspec import MsgspecError, Struct, field, msgpack, structs

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
        beside: what may be asked for beside predictions: ``"coverage"``, ``"survival_at"``.
    """

    description: dict[str, Any]
    requests: dict[str, dict[str, Any]]
    responses: dict[str, dict[str, Any]]
    values: list[str]
    outputs: list[str]
    beside: list[str] = []


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
        body: rows; in the front the pieces that they came in.
        sent: media type of the body.
        wanted: media type of the answer.
        options: the query: name -> values.
        id: of the request, for the log.
        size: bytes of the body that follow the frame.
    """

    kind: str
    body: bytes | list[bytes]
    sent: str
    wanted: str = JSON
    options: dict[str, list[str]] = field(default_factory=dict)
    id: str = ""
    size: int = 0

    def pieces(self) -> list[bytes]:
        """The body in pieces."""
        return [self.body] if isinstance(self.body, bytes) else self.body

    def whole(self) -> bytes:
        """The body in one."""
        return self.body if isinstance(self.body, bytes) else b"".join(self.body)


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


class Begun(Struct, array_like=True, tag=True):
    """A worker has read a whole job, and begins with it."""


class Done(Struct, array_like=True, tag=True):
    """The answers to a job, in its order."""

    answers: list[Answer]


ToWorker = Settings | Job
FromWorker = Loaded | Failed | Begun | Done
_to_worker: msgpack.Decoder[ToWorker] = msgpack.Decoder(ToWorker)
_from_worker: msgpack.Decoder[FromWorker] = msgpack.Decoder(FromWorker)


def parts(message: ToWorker) -> Iterator[bytes | bytearray]:
    """A message to a worker: its frame, and the pieces of the bodies."""
    if not isinstance(message, Job):
        yield frame(message)
        return
    heads = [structs.replace(q, body=b"", size=sum(map(len, q.pieces()))) for q in message.questions]
    yield frame(Job(message.model, heads))
    for question in message.questions:
        yield from question.pieces()


def frame(message: ToWorker | FromWorker) -> bytearray:
    """A message as bytes, with their number in front."""
    buffer = bytearray(HEAD)
    msgpack.Encoder().encode_into(message, buffer, HEAD)
    buffer[:HEAD] = (len(buffer) - HEAD).to_bytes(HEAD, "big")
    return buffer


def read_frame(stream: BinaryIO) -> ToWorker | None:
    """The next message to a worker, with the bodies that follow it; None where there are no more."""
    head = stream.read(HEAD)
    if len(head) < HEAD:
        return None
    message = _to_worker.decode(stream.read(int.from_bytes(head, "big")))
    if isinstance(message, Job):
        for question in message.questions:
            question.body = stream.read(question.size)
    return message


def answer_of(content: bytes) -> FromWorker:
    """A message from a worker, without the number in front.

    Raises:
        EOFError: it is none: what a worker says that was taken over by what it read is as good as nothing.
    """
    try:
        return _from_worker.decode(content)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        raise EOFError from None
