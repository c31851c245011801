"""`create_app`: an engine as an ASGI application, for uvicorn or Ray Serve."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import Match

from mirasol.serve import chat, files, realtime
from mirasol.serve.access import Access, Keys
from mirasol.serve.engine import Engine
from mirasol.serve.errors import add_handlers
from mirasol.serve.metrics import Metrics
from mirasol.serve.middleware import BodyLimit, Head, Measure
from mirasol.serve.service import Fetch, Service, refuse_to_fetch, service_of

STATIC = Path(__file__).parent / "static"
STARTER = Path(__file__).parent.parent / "starter" / "clips"  # samples of the page


def create_app(
    engine: Engine,
    model: str = "mirasol",
    drain_seconds: float = 60.0,
    fetch: Fetch = refuse_to_fetch,
    keys: Keys | None = None,
    names: tuple[str, ...] | None = None,
) -> FastAPI:
    """Return the application of an engine. The application starts and closes the engine.

    Args:
        engine: Engine that is not started.
        model: Model name that clients send.
        drain_seconds: Time to finish accepted work at shutdown.
        fetch: Returns the media at an address.
        keys: API keys; None admits every client.
        names: Host names that requests may address; None admits any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close, drain_seconds)

    app = FastAPI(title="mirasol", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
    metrics = Metrics(engine)
    app.state.service = service = Service(engine, model, fetch)
    app.state.metrics = metrics
    add_handlers(app)
    app.add_middleware(BodyLimit, limits=engine.limits, in_flight=service.in_flight)
    app.add_middleware(Head)
    app.add_middleware(Access, keys=keys, names=names)
    app.add_middleware(Measure, metrics=metrics)
    for routes in (chat, files, realtime):
        app.include_router(routes.router)
    app.get("/v1/models")(list_models)
    app.get("/v1/models/{id:path}")(one_model)
    app.get("/health")(health)
    app.get("/metrics")(show_metrics)
    app.mount("/starter", StaticFiles(directory=STARTER))
    # Unknown paths below /v1 are refused here, because the mount of the page would answer them with 404 or 405.
    app.add_route("/v1/{path:path}", unknown, ["GET", "POST", "PUT", "PATCH", "DELETE"])
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


async def unknown(request: Request) -> Response:
    """Refuse a request without a route: 405 if the path has another method, else 404."""
    is_known = any(route.matches(request.scope)[0] is Match.PARTIAL for route in request.app.routes)
    raise HTTPException(405 if is_known else 404)


async def list_models(request: Request) -> dict[str, Any]:
    """List the loaded model."""
    return {"object": "list", "data": [_model(service_of(request))]}


async def one_model(request: Request, id: str) -> dict[str, Any]:
    """Describe the loaded model; list it if the name is empty (`/v1/models/`)."""
    if not id:
        return await list_models(request)
    service = service_of(request)
    service.check_model(id)
    return _model(service)


async def health(request: Request) -> JSONResponse:
    """Return whether requests are accepted."""
    engine = service_of(request).engine
    state = "draining" if engine.is_draining else "ok" if engine.is_alive else "stopped"
    return JSONResponse({"status": state, "live_sessions": len(engine.sessions)}, 200 if state == "ok" else 503)


async def show_metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' format."""
    text = await asyncio.to_thread(request.app.state.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4")


def _model(service: Service) -> dict[str, Any]:
    processor, config = service.engine.answerer.processor, service.engine.answerer.model.config
    grid, known = processor.grid, service.engine.answerer.known_questions
    facts = {
        "frames_per_second": grid.frames_per_second,
        "seconds_per_chunk": grid.seconds_per_chunk,
        "max_chunks": grid.max_chunks,
        "sampling": processor.sampling,
        "image_size": processor.image_processor.image_size,
        "context_tokens": processor.tokenizer.model_max_length,
        "hears": config.use_audio,
        "upload_bytes": service.engine.limits.upload_bytes,
        "known_questions": known and [{"text": each.text, "answers": each.answers} for each in known.questions],
    }
    return {
        "id": service.model, "object": "model", "created": service.created, "owned_by": "mirasol", "mirasol": facts
    }  # fmt: skip
