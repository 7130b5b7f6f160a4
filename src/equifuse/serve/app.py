"""The service over HTTP: paths, negotiation, refusals."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

import equifuse
from equifuse.errors import EquifuseError
from equifuse.runs.folder import PathLike
from equifuse.serve.limits import Limits, Refusal, one_line
from equifuse.serve.metrics import Measured, Metrics
from equifuse.serve.schema import Description, Explained, Health, Problem, RequestFormat, predicted
from equifuse.serve.service import JSON, PARQUET, Answer, Service
from equifuse.serve.worker import Worker

_REFUSALS = {
    400: "The body is damaged.",
    406: "The answer cannot be given in the media type that Accept asks for.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or what it unfolds to is.",
    415: "The body is of an unknown media type.",
    422: "The body does not fit the model, or has too many rows.",
    503: "Too many requests are waiting; Retry-After says for how many seconds to wait.",
}
_RETRY_SECONDS = 1


def build(run: PathLike, explain: bool, limits: Limits) -> FastAPI:
    """See :func:`equifuse.serve.create_app`."""
    service = Service(run, explain, limits)
    metrics, worker = Metrics(), Worker(limits.max_waiting, limits.timeout)
    description, health = service.describe(), service.health()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    # No pages of documentation: they would fetch their scripts from elsewhere.
    app = FastAPI(
        title=f"equifuse: {description.name}",
        version=equifuse.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={EquifuseError: _refused, Exception: _failed},
    )

    async def answer_predict(request: Request) -> Response:
        """Predict rows: the columns of ``equifuse predict``, as JSON or Parquet."""
        wanted = _wanted(request, (JSON, PARQUET))
        sent = _sent(request)
        async with worker.place():
            body = await _body(request, limits)
            answer = await worker.run(service.predict, body, sent, wanted)
        metrics.count(answer)
        return _response(answer)

    async def answer_explain(request: Request) -> Response:
        """What each modality contributed to a value of each row: Shapley values over the subsets of modalities."""
        _wanted(request, (JSON,))
        sent = _sent(request)
        async with worker.place():
            body = await _body(request, limits)
            answer = await worker.run(service.explain, body, sent, request.query_params)
        return _response(answer)

    async def answer_health() -> Health:
        """Whether the service is up, what it serves, and its versions."""
        return health

    async def answer_model() -> Description:
        """What the model takes and gives."""
        return description

    async def answer_metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    parquet = {PARQUET: {"schema": {"type": "string", "format": "binary"}}}
    app.add_api_route(
        "/predict",
        answer_predict,
        methods=["POST"],
        operation_id="predict",
        response_model=None,
        responses={200: {"model": predicted(service.example), "content": parquet}, **_problems()},
        openapi_extra={"requestBody": _request_body(service.predicted)},
    )
    if service.values:
        app.add_api_route(
            "/explain",
            answer_explain,
            methods=["POST"],
            operation_id="explain",
            response_model=None,
            responses={200: {"model": Explained}, **_problems()},
            openapi_extra={"requestBody": _request_body(service.explained), "parameters": _options(service)},
        )
    app.add_api_route("/health", answer_health, operation_id="health")
    app.add_api_route("/model", answer_model, operation_id="model")
    app.add_api_route(
        "/metrics",
        answer_metrics,
        operation_id="metrics",
        response_model=None,
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    paths = ["/predict", "/explain", "/health", "/model", "/metrics", "/openapi.json"]
    app.add_middleware(Measured, metrics=metrics, paths=paths)
    return app


def _problems() -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()}


def _request_body(form: RequestFormat) -> dict[str, Any]:
    content = {JSON: {"schema": form.json_schema()}, PARQUET: {"schema": {"type": "string", "format": "binary"}}}
    return {"required": True, "content": content}


def _options(service: Service) -> list[dict[str, Any]]:
    """The query of an explanation."""
    value = {"type": "string", "enum": list(service.values), "default": service.values[0]}
    output = {"type": "string", "enum": list(service.outputs)}
    description = "The class, label or target whose value is explained; default the one predicted."
    return [
        {"name": "value", "in": "query", "schema": value, "description": "What is explained of each row."},
        {"name": "output", "in": "query", "schema": output, "description": description},
    ]


def _response(answer: Answer) -> Response:
    return Response(answer.content, media_type=answer.media_type)


async def _refused(_: Request, error: Exception) -> Response:
    """One line for a mistake of the client's; those that the library found are of the rows sent."""
    status = error.status if isinstance(error, Refusal) else 422
    headers = {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else None
    return JSONResponse({"detail": one_line(error)}, status, headers)


async def _failed(*_: object) -> Response:
    return JSONResponse({"detail": "internal error"}, 500)


async def _body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refusal: it is too large, or too slow.
    """
    most, declared = limits.max_bytes, request.headers.get("content-length", "")
    too_large = Refusal(413, f"the body has more than {most} bytes")
    # The declared length only saves time: what arrives is counted.
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        raise too_large
    pieces, size = [], 0
    try:
        async with asyncio.timeout(limits.timeout):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise too_large
                pieces.append(piece)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {limits.timeout:g} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection was closed before the body had arrived") from None
    return b"".join(pieces)


def _sent(request: Request) -> str:
    """The media type of the body.

    Raises:
        Refusal: none that is known.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, PARQUET):
        raise Refusal(415, f"Content-Type must be {JSON} or {PARQUET}, got {kind or 'none'}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Refusal(415, f"Content-Encoding {coding} is not known; send the body as it is")
    return kind


def _wanted(request: Request, offered: Sequence[str]) -> str:
    """The media type that the client likes best of those offered, the first of those it likes the same (RFC 9110).

    Raises:
        Refusal: it likes none.
    """
    accept = ",".join(request.headers.getlist("accept")) or "*/*"
    likes: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        likes[kind] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality, re.ASCII) else 0.0

    def liking(offer: str) -> float:
        # The most specific range decides.
        ranges = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        return next((likes[kind] for kind in ranges if kind in likes), 0.0)

    best = max(offered, key=liking)
    if not liking(best):
        raise Refusal(406, f"Accept must allow {' or '.join(offered)}, got {accept}")
    return best
