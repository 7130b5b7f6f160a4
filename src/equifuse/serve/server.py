"""The service as a process: it listens, starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from equifuse.errors import InputError
from equifuse.serve.access import AccessLog, Keys, check_origins
from equifuse.serve.app import Application, build
from equifuse.serve.connections import more_descriptors, protocol_of
from equifuse.serve.limits import Limits
from equifuse.serve.models import fingerprint
from equifuse.serve.options import Options
from equifuse.serve.pool import Pool, StartError

_log = logging.getLogger("equifuse.serve")
# Seconds that requests under way have, beyond their own time, to be answered when the service is stopped.
_GRACE = 5
# Seconds between two looks at the run folders.
_LOOK = 2.0
_LOCAL = ("127.0.0.1", "::1", "localhost")


def application_of(runs: dict[str, Path], options: Options, limits: Limits) -> tuple[Application, Pool]:
    """The paths of a service, and its workers."""
    if options.workers < 1:
        raise InputError(f"workers must be at least 1, got {options.workers}")
    keys = None if options.api_key_file is None else Keys(Path(options.api_key_file))
    pool = Pool({name: os.fspath(path) for name, path in runs.items()}, options.explain, limits, options.workers)
    return Application(pool, list(runs), limits, options.explain, keys), pool


def application(runs: dict[str, Path], options: Options, limits: Limits) -> Starlette:
    """See :func:`equifuse.serve.create_app`."""
    return build(application_of(runs, options, limits)[0], origins=check_origins(options.cors_origin))


def listen(runs: dict[str, Path], host: str, port: int, options: Options, limits: Limits) -> None:
    """See :func:`equifuse.serve.serve`."""
    front, pool = application_of(runs, options, limits)
    log = AccessLog() if options.access_log else None
    app = build(front, origins=check_origins(options.cors_origin), log=log)
    _check_certificate(options.certfile, options.keyfile)
    config = uvicorn.Config(
        app,
        http=protocol_of(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=options.certfile,
        ssl_keyfile=options.keyfile,
        timeout_keep_alive=max(1, int(limits.idle)),
        timeout_graceful_shutdown=int(2 * limits.timeout) + _GRACE,
        h11_max_incomplete_event_size=None,
        proxy_headers=False,
    )
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    more_descriptors(limits.max_connections)
    bound = _bound(host, port)
    if host not in _LOCAL and front.keys is None:
        _log.warning("anybody who reaches %s can ask the model: --api-key-file lets in only who has a key", host)
    scheme = "http" if options.certfile is None else "https"
    shown = f"[{host}]" if ":" in host else host
    address = f"{scheme}://{shown}:{bound.getsockname()[1]}"
    server = _Server(config)
    asyncio.run(_serve(server, bound, pool, front, address))
    if server.failure is not None:
        raise InputError(server.failure)


class _Server(uvicorn.Server):
    """uvicorn's server, and why it was stopped if it was not asked to.

    Once all requests are answered it has done what SIGTERM asked for, and ends as a process that has done its work.
    """

    failure: str | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop when requests are answered; at a second Ctrl-C at once."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


async def _serve(server: _Server, bound: socket.socket, pool: Pool, front: Application, address: str) -> None:
    names = ", ".join(front.names)

    async def watch() -> None:
        try:
            await pool.first()
        except StartError as error:
            server.failure, server.should_exit = str(error), True
            return
        print(f"serving {names} at {address} (try it there; API at {address}/docs)", file=sys.stderr, flush=True)
        if server.config.ssl_certfile is None and front.keys is not None and not address.startswith("http://127."):
            _log.warning("keys are sent as they are: use --certfile and --keyfile, or a proxy with TLS in front")
        await _reload_when_replaced(pool, front)

    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = {asyncio.create_task(watch())}
    if hasattr(signal, "SIGHUP"):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(asyncio.create_task(_reload(front))))
    print(f"loading {names} ...", file=sys.stderr, flush=True)
    try:
        await server.serve(sockets=[bound])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reload(front: Application) -> None:
    try:
        await front.read_again()
    except (StartError, ValueError) as error:
        _log.error("nothing has changed: %s", error)
    else:
        _log.warning("read again: %s", ", ".join(front.names))


async def _reload_when_replaced(pool: Pool, front: Application) -> None:
    """Read a model again once its folder was replaced by another finished run, and has not changed for a while."""
    served = last = fingerprint(pool.runs)
    while True:
        await asyncio.sleep(_LOOK)
        now = fingerprint(pool.runs)
        if now is not None and now not in (served, None) and now == last:
            served = now
            await _reload(front)
        last = now


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address, which it finds out before anything is loaded.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio turns Nagle's algorithm off where it is told that this is TCP.
        bound = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return bound


def _check_certificate(certfile: str | None, keyfile: str | None) -> None:
    """Read a certificate and its key, so that a mistake is told at once.

    Raises:
        InputError: they cannot be read, or do not fit.
    """
    if certfile is None:
        if keyfile is not None:
            raise InputError("--keyfile needs --certfile")
        return
    for path in filter(None, (certfile, keyfile)):
        if not Path(path).is_file():
            raise InputError(f"no such file: {path}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password=_no_password)
    except (OSError, ValueError) as error:
        raise InputError(f"the certificate {certfile} cannot be used: {error}") from None


def _no_password() -> str:
    raise ValueError("its key has a password; serve needs one without")
