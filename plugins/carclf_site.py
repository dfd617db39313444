"""What the pages inside Airflow's UI are served by: login, rights, headers; what they show is carclf.reporting's.

All is read-only; a request that would change anything asks for the right to edit the DAG, whichever route it is for.
The store is the one of the DAGs (CARCLF_STORE); a request names runs, stages and files of manifests, never a key.
"""

import base64
import hashlib
import mimetypes
import os
import re
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from carclf.errors import CarclfError, ConfigError
from carclf.experiments.results import read_outcome, report_of
from carclf.records import run_id_of
from carclf.reporting import pages
from carclf.reporting.facts import artifact_file
from carclf.reporting.listing import Wanted, listing
from carclf.reporting.run_report import run_report
from carclf.services.storage import Store, open_store

DAG = "car_retrain"
EXPERIMENTS = "car_experiments"
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'self'")
SANDBOX = "sandbox; default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
}
KEPT = {"Cache-Control": "private, max-age=86400"}  # the address of script and style changes with them
may_read, may_edit = (requires_access_dag(method, param_dag_id=DAG) for method in ("GET", "PUT"))
SHOWN_INLINE = ("text/html", "image/png")


class Headers:
    """Puts the headers on every answer, whoever made it; an answer with a policy of its own keeps that."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in own if one[0] not in there)]
            await send(message)

        await self.app(scope, receive, sent)


def permitted(request: Request, user: GetUserDep) -> None:
    """Who only looks must be allowed to read the DAG, and who would change anything to edit it."""
    (may_read if request.method in ("GET", "HEAD") else may_edit)(request, user)


_opened = cache(open_store)  # once in a process: to connect to S3 takes a third of a second


def _store() -> Store:
    try:
        return _opened(os.environ.get("CARCLF_STORE") or "store")
    except ConfigError as error:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, f"{error} Mend CARCLF_STORE of the api-server.") from error


InStore = Annotated[Store, Depends(_store)]


def make_site() -> FastAPI:
    """The app; each of its routes asks who it is."""
    site = FastAPI(title="Car classifier", docs_url=None, redoc_url=None, openapi_url=None,
                   dependencies=[Depends(permitted)])
    site.add_middleware(Headers)
    _add_pages(site)
    _add_data(site)
    site.add_exception_handler(CarclfError, _impossible)
    site.add_exception_handler(StarletteHTTPException, _refused)
    site.add_exception_handler(RequestValidationError, _misunderstood)
    site.add_exception_handler(Exception, _unforeseen)
    return site


def _add_pages(site: FastAPI) -> None:
    @site.get("/", response_class=HTMLResponse)
    def runs(request: Request, store: InStore) -> str:
        return pages.runs_page(store, _root(request))

    @site.get("/runs/{run_id}", response_class=HTMLResponse)
    def run(request: Request, run_id: str, store: InStore) -> str:
        return pages.run_page(store, _root(request), run_id)

    # Asks for the right to read the DAG that the request names, too.
    @site.get("/dag-run", response_class=HTMLResponse, dependencies=[Depends(requires_access_dag("GET"))])
    def dag_run(request: Request, store: InStore, dag_id: str, run_id: str) -> str:
        root, own = _root(request), run_id_of(run_id)
        if dag_id == EXPERIMENTS:
            return _experiment(root, store, own)
        if dag_id != DAG:
            return pages.problem_page(root, "No report", f"Runs of {dag_id} train no car classifier.")
        if not pages.begun(store, own):
            return pages.problem_page(root, "Not begun", f"The run {own} has not begun yet, or it ended before its "
                                      "first stage did. Its report appears here.", waits_for=own)
        return pages.run_page(store, root, own)

    @site.get("/compare", response_class=HTMLResponse)
    def compare(request: Request, store: InStore, a: str, b: str) -> str:
        return pages.comparison_page(store, _root(request), a, b)


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
        return _file(f"{run_id}.html", run_report(store, run_id).encode(errors="backslashreplace"))

    @site.get("/experiments/{name}/report.html")
    def experiment_report(name: str, store: InStore) -> Response:
        if (page := report_of(name, store)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"No experiment {name[:100]} was compared.")
        return _file(f"{name}.html", page)

    @site.get("/runs/{run_id}/files/{stage}/{name}")
    def file(run_id: str, stage: str, name: str, store: InStore) -> Response:
        content = artifact_file(store, run_id, stage, name)
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{stage} of {run_id} left no {name} that can be shown.")
        return _file(name, content)

    @site.get("/static/{name}")
    def static(name: str) -> Response:
        if (found := pages.static_file(name)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {name} here.")
        return Response(found[0], media_type=found[1], headers=KEPT)

    # The last one: what is not there is told to those who are logged in, and not to others.
    @site.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def nothing(path: str) -> Response:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {path[:100]} here.")


def _root(request: Request) -> str:
    """The path under which the app itself is served."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _experiment(root: str, store: Store, name: str) -> str:
    """The page that compares an experiment's recipes."""
    if report_of(name, store) is None:
        return pages.problem_page(root, "Not compared yet", f"The recipes of {name} are compared by its last task.",
                                  runs=name)
    return pages.experiment_page(root, read_outcome(name, store))


def _file(name: str, content: bytes) -> Response:
    """A file of the store, which may hold anything: without scripts, network, forms or this site's origin."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    styles = re.findall(rb"<style>(.*?)</style>", content, re.DOTALL) if kind == "text/html" else []
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in styles[:4])
    how = "inline" if kind in SHOWN_INLINE else "attachment"
    return Response(content, media_type=kind, headers={
        "Content-Security-Policy": f"{SANDBOX}; style-src {hashes}" if hashes else SANDBOX,
        "Content-Disposition": f'{how}; filename="{re.sub(r"[^A-Za-z0-9._-]", "-", name)}"',
    })


def _impossible(request: Request, error: Exception) -> Response:
    assert isinstance(error, CarclfError)
    status, heading = pages.explained(error)
    return _told(request, status, heading, str(error))


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    headings = {401: "Log in", 403: "Not allowed", 404: "Not found", 503: "The store cannot be used"}
    words = {401: "This page is for those who are logged in to Airflow. Load Airflow anew, and log in.",
             403: f"You may not {'see' if request.method in ('GET', 'HEAD') else 'edit'} the DAG {DAG}."}
    return _told(request, error.status_code, headings.get(error.status_code, "Not possible"),
                 words.get(error.status_code, str(error.detail)))


def _misunderstood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return _told(request, HTTPStatus.UNPROCESSABLE_ENTITY, "Not understood", wrong)


def _unforeseen(request: Request, error: Exception) -> Response:
    """Starlette answers this one outside of all middleware; the trace is in the api-server's log."""
    answer = _told(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong",
                   f"{type(error).__name__}. More is in the api-server's log.")
    answer.headers.update(HEADERS)
    return answer


def _told(request: Request, status: int, heading: str, text: str) -> Response:
    """A page for a person, JSON for a script."""
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(f"{_root(request)}/data/"):
        return HTMLResponse(pages.problem_page(_root(request), heading, text), int(status))
    return JSONResponse({"detail": text}, int(status))
