"""What the pages inside Airflow's UI are served by: login, rights, headers; what they show is carclf.reporting's.

All is read-only. The store is the one of the DAGs (CARCLF_STORE); a request names runs, stages and files of manifests,
never a key of the store.
"""

import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from carclf.errors import CarclfError, ConfigError, ServiceError
from carclf.reporting import downloads, pages
from carclf.reporting.listing import MAX_LIMIT, Wanted, listing
from carclf.services.storage import Store, open_store

DAG = "car_retrain"
DAGS = (DAG, "car_experiments")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'self'; frame-ancestors 'self'")
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
        "Cross-Origin-Resource-Policy": "same-origin"}
MAY_READ = Depends(requires_access_dag("GET", param_dag_id=DAG))


def _store() -> Store:
    return open_store(os.environ.get("CARCLF_STORE") or "store")


InStore = Annotated[Store, Depends(_store)]


class Headers:
    """Puts the headers on every answer, whoever made it; one with a policy of its own keeps that."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                wanted = SAFE | {"Content-Security-Policy": POLICY}
                message["headers"] = [*message["headers"], *(
                    (name.lower().encode(), value.encode()) for name, value in wanted.items()
                    if name.lower().encode() not in there)]
            await send(message)

        await self.app(scope, receive, sent)


def make_site() -> FastAPI:
    """The app; each of its routes asks for the right to read the DAG."""
    site = FastAPI(title="Car classifier", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[MAY_READ])
    site.add_middleware(Headers)
    _add_pages(site)
    _add_data(site)
    site.add_exception_handler(CarclfError, _told)
    site.add_exception_handler(StarletteHTTPException, _refused)
    site.add_exception_handler(RequestValidationError, _misunderstood)
    return site


def _add_pages(site: FastAPI) -> None:
    @site.get("/", response_class=HTMLResponse)
    def runs(request: Request, store: InStore) -> str:
        return pages.runs_page(store, _root(request))

    @site.get("/runs/{run_id}", response_class=HTMLResponse)
    def run(request: Request, run_id: str, store: InStore) -> str:
        return pages.run_page(store, _root(request), run_id)

    @site.get("/dag-run", response_class=HTMLResponse)
    def dag_run(request: Request, store: InStore, dag_id: str, run_id: str) -> str:
        if dag_id not in DAGS:
            return pages.problem_page(_root(request), "No report", f"{dag_id} trains no car classifier: its runs have no "
                                      f"report. Those of {DAG} have.")
        return pages.run_page(store, _root(request), pages.run_id_of(run_id))

    @site.get("/compare", response_class=HTMLResponse)
    def compare(request: Request, store: InStore, a: str, b: str) -> str:
        return pages.comparison_page(store, _root(request), a, b)

    @site.get("/static/{name}")
    def static(name: str) -> Response:
        found = pages.static_file(name)
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {name} here.")
        content, kind = found
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})


def _add_data(site: FastAPI) -> None:
    @site.get("/data/runs")
    def data_runs(store: InStore, wanted: Annotated[Wanted, Query()]) -> dict[str, Any]:
        return listing(store, wanted)

    @site.get("/data/timeline")
    def timeline(store: InStore) -> dict[str, Any]:
        return pages.timeline(store)

    @site.get("/data/runs/{run_id}/live")
    def live(run_id: str, store: InStore) -> dict[str, Any]:
        return pages.live(store, run_id)

    @site.get("/runs/{run_id}/report.html")
    def report(run_id: str, store: InStore) -> Response:
        return _shown(downloads.report(store, run_id))

    @site.get("/runs/{run_id}/files/{stage}/{name}")
    def file(run_id: str, stage: str, name: str, store: InStore) -> Response:
        return _shown(downloads.artifact_file(store, run_id, stage, name))
