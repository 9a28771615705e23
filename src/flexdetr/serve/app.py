"""The server: its addresses, and what each of them does."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import resources
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from flexdetr import __version__
from flexdetr.classes import Classes
from flexdetr.pixel_form import PixelForm
from flexdetr.runtime.detections import Detections
from flexdetr.serve import kserve
from flexdetr.serve.batching import Batcher
from flexdetr.serve.limits import Limits, RefusedError
from flexdetr.serve.uploads import decode_picture, read_body, read_json, read_upload

_log = logging.getLogger(__name__)
_NOTHING_ELSE = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Handler = Callable[[Request], Awaitable[Response]]


class Detects(Protocol):
    """What is served: ``flexdetr.load`` gives it."""

    @property
    def classes(self) -> Classes:
        """Names and data-set ids."""
        ...

    @property
    def form(self) -> PixelForm:
        """What a picture's pixels become."""
        ...

    def predict(self, source: Any, threshold: float = ...) -> Any:  # noqa: ANN401 - pictures, and a list for a list
        """The objects of each picture of a list."""
        ...


class _Metrics:
    """What ``/metrics`` tells; each server counts for itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "flexdetr_requests", "Requests by address and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "flexdetr_request_seconds", "Time from request to answer.", ["path"], registry=self.registry
        )
        self.batch = Histogram(
            "flexdetr_batch_size",
            "Pictures computed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "flexdetr_in_flight", "Requests that are being answered.", registry=self.registry
        )
        self.objects = Counter(
            "flexdetr_objects", "Objects found, by class.", ["name"], registry=self.registry
        )


def make_app(
    detector: Detects,
    *,
    name: str,
    threshold: float = 0.4,
    token: str | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """The application, for any ASGI server.

    Args:
        detector: what is served.
        name: how KServe's addresses call it.
        threshold: lowest score that is answered where a request names none.
        token: what ``Authorization: Bearer`` must hold; None asks for none. ``/`` and ``/health`` are open to all.
        limits: of requests and batches.
    """
    server = _Server(detector, name, threshold, token, limits or Limits())
    own = f"/v2/models/{name}"
    routes = [
        Route("/", server.page),
        Route("/health", server.health),
        Route("/metrics", server.metrics),
        Route("/predict", server.counted("/predict", server.predict), methods=["POST"]),
        Route("/v2", server.about),
        Route("/v2/health/live", server.health),
        Route("/v2/health/ready", server.health),
        Route(own, server.about_model),
        Route(f"{own}/ready", server.health),
        Route(f"{own}/infer", server.counted("/infer", server.infer), methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        lifespan=server.lifespan,
        exception_handlers={RefusedError: _refuse, HTTPException: _refuse_address},
    )


class _Server:
    def __init__(
        self, detector: Detects, name: str, threshold: float, token: str | None, limits: Limits
    ) -> None:
        self._detector = detector
        self._name = name
        self._threshold = threshold
        self._token = token
        self._limits = limits
        self._metrics = _Metrics()
        self._in_flight = 0
        self._batcher: Batcher | None = None
        self._worker: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """The batches are made as long as the server runs."""
        limits = self._limits
        self._batcher = Batcher(
            self._detect, size=limits.batch_size, wait=limits.batch_wait, observe=self._metrics.batch.observe
        )
        self._worker = asyncio.create_task(self._batcher.run())
        try:
            yield
        finally:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    def _detect(self, images: list[NDArray[np.uint8]]) -> list[Detections]:
        return list(self._detector.predict(images, 0.0))

    def counted(self, path: str, handler: Handler) -> Handler:
        """The handler of a picture: with the token, the limits and the metrics around it."""

        async def handle(request: Request) -> Response:
            began = time.monotonic()
            status = 500
            try:
                self._check_token(request)
                if self._in_flight >= self._limits.in_flight:
                    raise RefusedError(503, "too many requests are being answered; try again in a second")
                self._in_flight += 1
                self._metrics.in_flight.inc()
                try:
                    async with asyncio.timeout(self._limits.seconds):
                        response = await handler(request)
                finally:
                    self._in_flight -= 1
                    self._metrics.in_flight.dec()
                status = response.status_code
            except RefusedError as refused:
                status = refused.status
                raise
            except TimeoutError as error:
                status = 408
                raise RefusedError(
                    408, f"the request took longer than {self._limits.seconds:g} seconds, which is the limit"
                ) from error
            except ClientDisconnect as error:
                status = 400
                raise RefusedError(400, "the request ended before its body did") from error
            except Exception as error:
                _log.exception("a request failed")
                raise RefusedError(500, "the server failed to answer; its log says why") from error
            finally:
                self._metrics.requests.labels(path, str(status)).inc()
                self._metrics.seconds.labels(path).observe(time.monotonic() - began)
            return response

        return handle

    async def predict(self, request: Request) -> Response:
        """``POST /predict?threshold=T``: a picture, and what is in it."""
        threshold = self._asked_threshold(request.query_params.get("threshold"))
        content = await read_upload(request, self._limits)
        found, size, seconds = await self._objects(content, threshold)
        return JSONResponse(
            {
                "model": self._name,
                "width": size[1],
                "height": size[0],
                "seconds": round(seconds, 4),
                "objects": found.to_json(),
            }
        )

    async def infer(self, request: Request) -> Response:
        """``POST /v2/models/NAME/infer``: the same in KServe's form."""
        document = read_json(await read_body(request, self._limits))
        parameters = document.get("parameters")
        given = parameters.get("threshold") if isinstance(parameters, dict) else None
        threshold = self._asked_threshold(given)
        found, _, _ = await self._objects(kserve.picture_of(document), threshold)
        return JSONResponse(kserve.answer(document, self._name, found))

    async def _objects(self, content: bytes, threshold: float) -> tuple[Detections, tuple[int, int], float]:
        image = await asyncio.to_thread(decode_picture, content, self._limits, self._detector.form)
        assert self._batcher is not None  # the lifespan has begun  # noqa: S101
        began = time.monotonic()
        found = await self._batcher.submit(image)
        found = found[found.scores >= threshold]
        for name in found.names:
            self._metrics.objects.labels(name).inc()
        return found, (image.shape[0], image.shape[1]), time.monotonic() - began

    def _asked_threshold(self, given: object) -> float:
        if given is None:
            return self._threshold
        try:
            asked = float(given)  # type: ignore[arg-type]  # anything else is answered
        except (TypeError, ValueError):
            asked = -1.0
        if not 0 <= asked <= 1:
            raise RefusedError(400, f"threshold is a score between 0 and 1; got {str(given)[:40]!r}")
        return asked

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise RefusedError(401, "this server asks for its token: send 'Authorization: Bearer TOKEN'")

    async def page(self, _request: Request) -> Response:
        """A page to try it."""
        text = resources.files("flexdetr.serve").joinpath("page.html").read_text("utf-8")
        headers = {"content-security-policy": _NOTHING_ELSE, "x-content-type-options": "nosniff"}
        return HTMLResponse(text, headers=headers)

    async def health(self, _request: Request) -> Response:
        """Whether pictures are being computed."""
        works = self._worker is not None and not self._worker.done()
        body = {"status": "ok" if works else "failed", "model": self._name, "version": __version__}
        return JSONResponse(body, 200 if works else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text."""
        self._check_token(request)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def about(self, _request: Request) -> Response:
        """The server's metadata, as KServe has it."""
        return JSONResponse({"name": "flexdetr", "version": __version__, "extensions": []})

    async def about_model(self, request: Request) -> Response:
        """The model's metadata, as KServe has it."""
        self._check_token(request)
        return JSONResponse(kserve.describe(self._name, self._detector.classes))


async def _refuse(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status", 500)
    headers: Mapping[str, str] = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(
        status, {}
    )
    return JSONResponse({"error": str(error)}, status, headers=dict(headers))


async def _refuse_address(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = f"{request.method} {request.url.path}"
    text = f"{what} is not served; POST a picture to /predict" if status in (404, 405) else str(error)
    return JSONResponse({"error": text}, status, headers=getattr(error, "headers", None))
