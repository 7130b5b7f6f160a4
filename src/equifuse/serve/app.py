"""The service over HTTP: paths, refusals. It moves bytes between connections and workers, and looks into none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from equifuse.serve.access import NOTES, AccessLog, Guarded, Keys, Recorded
from equifuse.serve.limits import Limits, Refusal, one_line
from equifuse.serve.messages import JSON, PARQUET, Answer, Loaded, Question, Served
from equifuse.serve.metrics import Metrics
from equifuse.serve.negotiation import Bodies, sent, wanted
from equifuse.serve.openapi import openapi
from equifuse.serve.pages import PAGES, page
from equifuse.serve.pool import StartError, Timing

T = TypeVar("T")
_RETRY_SECONDS = 1
_PATHS = ("/predict", "/explain", "/embed", "/health", "/ready", "/model", "/metrics", "/openapi.json", "/reload")


class Workers(Protocol):
    """What the application needs of its workers; see :class:`equifuse.serve.pool.Pool`."""

    loaded: Loaded | None
    failure: str | None
    lost: int

    def count(self) -> int:
        """Workers that are ready."""

    async def start(self) -> None:
        """Start them; returns at once."""

    async def close(self) -> None:
        """Stop them."""

    async def reload(self) -> None:
        """Read the models again."""

    async def ask(self, model: str, question: Question) -> tuple[Answer, Timing]:
        """The answer to a request."""


class Application:
    """The paths of a service.

    Args:
        workers: who answer.
        names: of the models; the first is the one of the paths without a name.
        limits: of a request.
        explain: whether there are explanations.
        keys: that clients need; None for none.
    """

    def __init__(
        self, workers: Workers, names: Sequence[str], limits: Limits, explain: bool, keys: Keys | None
    ) -> None:
        self.workers, self.names, self.limits, self.explain, self.keys = workers, list(names), limits, explain, keys
        self.bodies = Bodies(limits)
        self.metrics = Metrics([*_PATHS, *PAGES, "/v1/models"])

    def routes(self) -> list[Route]:
        """All of them."""
        kinds = ["predict", "embed", *(["explain"] if self.explain else [])]
        found = [Route(path, self._page(path), methods=["GET"]) for path in PAGES]
        for kind in kinds:
            found.append(Route(f"/{kind}", self._asked(kind), methods=["POST"]))
            found.append(Route(f"/v1/models/{{name}}/{kind}", self._asked(kind), methods=["POST"]))
        found += [
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/model", self.model, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name}", self.model, methods=["GET"]),
            Route("/metrics", self.numbers, methods=["GET"]),
            Route("/openapi.json", self.described, methods=["GET"]),
        ]
        if self.keys is not None:
            found.append(Route("/reload", self.reload, methods=["POST"]))
        return found

    def _asked(self, kind: str) -> Any:
        offered = (JSON, PARQUET) if kind == "predict" else (JSON,)

        async def answer(request: Request) -> Response:
            name = self._name(request)
            media_type, given = wanted(request, offered), sent(request)
            body = await self.bodies.read(request)
            notes = request.scope[NOTES]
            notes |= {"model": name, "bytes_in": sum(map(len, body))}
            options = {name: request.query_params.getlist(name) for name in request.query_params}
            question = Question(kind, body, given, media_type, options, notes["id"])
            found, timing = await _while_connected(request, self.workers.ask(name, question))
            notes |= {
                "rows": found.rows,
                "waited": round(timing.waited * 1000, 2),
                "worked": round(timing.worked * 1000, 2),
                "together": timing.together,
            }
            if kind == "predict" and found.status == 200:
                self.metrics.count(name, found, timing)
            return Response(found.content, found.status, media_type=found.media_type)

        return answer

    def _name(self, request: Request) -> str:
        name: str = request.path_params.get("name", self.names[0])
        if name not in self.names:
            raise Refusal(404, f"no model {name[:100]!r}; there are {', '.join(self.names)}")
        return name

    def _served(self, name: str) -> Served:
        return self._loaded().models[name]

    def _loaded(self) -> Loaded:
        loaded = self.workers.loaded
        if loaded is None:
            raise Refusal(503, self.workers.failure or "the model is still being loaded; try again later")
        return loaded

    def _page(self, path: str) -> Any:
        content, media_type = page(path)

        async def answer(_: Request) -> Response:
            return Response(content, media_type=media_type)

        return answer

    async def health(self, _: Request) -> Response:
        """Whether the service is up, what it serves, and its versions; answered whatever the workers do."""
        loaded = self.workers.loaded
        found: dict[str, Any] = {"status": "ok", "model": self.names[0]}
        if loaded is not None:
            described = loaded.models[self.names[0]].description
            found |= {"task": described["task"], "fusion": described["fusion"], "versions": loaded.versions}
        return JSONResponse(found)

    async def ready(self, _: Request) -> Response:
        """Whether a worker is ready to answer."""
        count = self.workers.count()
        if self.workers.loaded is not None and count:
            return JSONResponse({"status": "ready", "workers": count, "models": self.names})
        detail = self.workers.failure or "no worker is ready yet"
        return JSONResponse({"detail": one_line(detail)}, 503, {"Retry-After": str(_RETRY_SECONDS)})

    async def model(self, request: Request) -> Response:
        """What a model takes and gives."""
        return JSONResponse(self._served(self._name(request)).description)

    async def models(self, _: Request) -> Response:
        """What all of them take and give."""
        loaded = self._loaded()
        return JSONResponse({"models": [loaded.models[name].description for name in self.names]})

    async def numbers(self, _: Request) -> Response:
        """Numbers for Prometheus."""
        return Response(
            self.metrics.text(self.workers.count(), self.workers.lost), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def described(self, _: Request) -> Response:
        """The service in the words of OpenAPI."""
        return JSONResponse(openapi(self._loaded(), self.names, self.explain, self.keys is not None))

    async def reload(self, _: Request) -> Response:
        """Read the models, and the keys, again."""
        try:
            await self.read_again()
        except (StartError, ValueError) as error:
            return JSONResponse({"detail": one_line(f"nothing has changed: {error}")}, 409)
        return JSONResponse({"status": "reloaded", "models": self.names})

    async def read_again(self) -> None:
        """Read the models, and the keys, again.

        Raises:
            StartError: a model cannot be read; the one of before goes on.
            DataError: the keys cannot be read; likewise.
        """
        if self.keys is not None:
            self.keys.reload()
        await self.workers.reload()


def build(
    application: Application,
    *,
    origins: Sequence[str] = (),
    log: AccessLog | None = None,
) -> Starlette:
    """The service as an ASGI application.

    Args:
        application: its paths.
        origins: of pages elsewhere that may ask it.
        log: where requests are noted; None for nowhere.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await application.workers.start()
        try:
            yield
        finally:
            await application.workers.close()
            if log is not None:
                log.close()

    middleware = [Middleware(Recorded, metrics=application.metrics, log=log)]
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        )
    if application.keys is not None:
        middleware.append(Middleware(Guarded, keys=application.keys))
    handlers: Any = {Refusal: _refused, HTTPException: _unknown, Exception: _failed}
    app = Starlette(routes=application.routes(), middleware=middleware, lifespan=lifespan, exception_handlers=handlers)
    app.state.application = application
    return app


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; a request whose client has gone does not wait any longer.

    Raises:
        Refusal: the client has gone.
    """
    working = asyncio.create_task(work)
    # After the body there is nothing more to receive but this.
    gone = asyncio.ensure_future(request.receive())
    either: list[asyncio.Future[Any]] = [working, gone]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refusal(400, "the client has closed the connection")
    finally:
        gone.cancel()
        working.cancel()


async def _refused(_: Request, error: Exception) -> Response:
    """One line for a mistake of the client's, or why there is no answer now."""
    status = error.status if isinstance(error, Refusal) else 500
    headers = {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else None
    return JSONResponse({"detail": one_line(error)}, status, headers)


async def _unknown(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": one_line(error.detail)}, error.status_code, error.headers)


async def _failed(*_: object) -> Response:
    return JSONResponse({"detail": "internal error"}, 500)
