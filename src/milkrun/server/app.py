"""The routes: `/metrics`, `/healthz` and `/readyz`. They read and never change anything.

`/healthz` says that this process answers and its log can be read; `/readyz` that every task of the project is at work.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from milkrun.control.coordinator import Project
from milkrun.model.errors import MilkrunError
from milkrun.server.metrics import WORKING, ProjectCollector


def make_app(project: Project) -> Starlette:
    """The application for one project."""
    registry = CollectorRegistry()
    registry.register(ProjectCollector(project))

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        try:
            body = await run_in_threadpool(encode, registry)
        except MilkrunError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        return Response(body, media_type=content_type)

    async def healthz(_: Request) -> Response:
        return await run_in_threadpool(_health, project)

    async def readyz(_: Request) -> Response:
        return await run_in_threadpool(_readiness, project)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )


def _health(project: Project) -> Response:
    try:
        project.log.version()
    except MilkrunError as error:
        return JSONResponse({"status": "failing", "error": str(error)}, status_code=503)
    return JSONResponse({"status": "ok"})


def _readiness(project: Project) -> Response:
    """Ready is 200; otherwise 503 with the tasks that aren't at work, their states and errors, or what is waited for."""
    try:
        status = project.status()
    except MilkrunError as error:
        return JSONResponse({"status": "failing", "error": str(error)}, status_code=503)
    if status.version is None:
        return JSONResponse({"status": "not ready", "waiting_for": "milkrun apply"}, status_code=503)
    waiting = [
        {
            "pipeline": task.pipeline,
            "kind": task.kind,
            "task": task.name,
            "state": task.state,
            "error": task.error,
        }
        for task in status.tasks
        if task.state not in WORKING
    ]
    if waiting:
        return JSONResponse({"status": "not ready", "tasks": waiting}, status_code=503)
    return JSONResponse({"status": "ready"})
