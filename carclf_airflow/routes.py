"""What the pages inside Airflow's UI are served by: login, rights, headers; what they show is carclf.reporting's.

All is read-only; a request that would change anything asks for the right to edit the DAG, whichever route it is for.
The store is the one of the DAGs (CARCLF_STORE); a request names runs, stages and files of manifests, never a key.
"""

import os
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from carclf.dashboard import pages
from carclf.dashboard.run_facts import artifact_file
from carclf.dashboard.run_list import RunQuery, query_runs, runs_as_csv
from carclf.dashboard.run_report import run_report
from carclf.errors import ConfigError
from carclf.experiments.plan import find_plan
from carclf.experiments.results import find_outcome, find_report
from carclf.runs.record import run_id_from_dag_run
from carclf.services.storage import Store, open_store
from carclf_airflow.responses import SAFE_METHODS, add_error_handlers, app_root_path, stored_file_response

DAG, EXPERIMENTS = "car_retrain", "car_experiments"
KEPT = {"Cache-Control": "private, max-age=86400"}  # the address of script and style changes with them
may_see_experiments = requires_access_dag("GET", param_dag_id=EXPERIMENTS)
may_read, may_edit = (requires_access_dag(method, param_dag_id=DAG) for method in ("GET", "PUT"))


def require_permission(request: Request, user: GetUserDep) -> None:
    """Who only looks must be allowed to read the DAG, and who would change anything to edit it."""
    (may_read if request.method in SAFE_METHODS else may_edit)(request, user)


_opened = cache(open_store)  # once in a process: to connect to S3 takes a third of a second


def _store() -> Store:
    try:
        return _opened(os.environ.get("CARCLF_STORE") or "store")
    except ConfigError as error:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, f"{error} Mend CARCLF_STORE of the api-server.") from error


InStore = Annotated[Store, Depends(_store)]


def create_app() -> FastAPI:
    """The app; each of its routes asks who it is."""
    site = FastAPI(title="Car classifier", docs_url=None, redoc_url=None, openapi_url=None,
                   dependencies=[Depends(require_permission)])
    add_error_handlers(site)
    _add_pages(site)
    _add_data(site)
    return site


def _add_pages(site: FastAPI) -> None:
    @site.get("/", response_class=HTMLResponse)
    def runs(request: Request, store: InStore) -> str:
        return pages.runs_page(store, app_root_path(request))

    @site.get("/runs/{run_id}", response_class=HTMLResponse)
    def run(request: Request, run_id: str, store: InStore) -> str:
        return pages.run_page(store, app_root_path(request), run_id)

    # Asks for the right to read the DAG that the request names, too.
    @site.get("/dag-run", response_class=HTMLResponse, dependencies=[Depends(requires_access_dag("GET"))])
    def dag_run(request: Request, store: InStore, dag_id: str, run_id: str) -> str:
        root, own = app_root_path(request), run_id_from_dag_run(run_id)
        if dag_id == EXPERIMENTS:
            return _experiment(root, store, own)
        if dag_id != DAG:
            return pages.error_page(root, "No report", f"Runs of {dag_id} train no car classifier.")
        if not pages.run_exists(store, own):
            return pages.error_page(root, "Not begun", f"The run {own} has not begun yet, or it ended before its "
                                      "first stage did. Its report appears here.", awaited_run_id=own)
        return pages.run_page(store, root, own)

    @site.get("/compare", response_class=HTMLResponse)
    def compare(request: Request, store: InStore, a: str, b: str) -> str:
        return pages.comparison_page(store, app_root_path(request), a, b)


def _add_data(site: FastAPI) -> None:
    @site.get("/data/runs")
    def data_runs(store: InStore, wanted: Annotated[RunQuery, Query()]) -> dict[str, Any]:
        return query_runs(store, wanted).to_json()

    @site.get("/data/runs.csv")
    def table(store: InStore, wanted: Annotated[RunQuery, Query()]) -> Response:
        return stored_file_response("runs.csv", runs_as_csv(store, wanted).encode(errors="backslashreplace"))

    @site.get("/data/timeline")
    def timeline(store: InStore) -> dict[str, Any]:
        return pages.timeline(store)

    @site.get("/data/runs/{run_id}/live")
    def live(run_id: str, store: InStore) -> dict[str, Any]:
        return pages.live(store, run_id)

    @site.get("/runs/{run_id}/report.html")
    def report(run_id: str, store: InStore) -> Response:
        return stored_file_response(f"{run_id}.html", run_report(store, run_id).encode(errors="backslashreplace"))

    @site.get("/experiments/{name}/report.html", dependencies=[Depends(may_see_experiments)])
    def experiment_report(name: str, store: InStore) -> Response:
        if (page := find_report(name, store)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"No experiment {name[:100]} was compared.")
        return stored_file_response(f"{name}.html", page)

    @site.get("/runs/{run_id}/files/{stage}/{name}")
    def file(run_id: str, stage: str, name: str, store: InStore) -> Response:
        content = artifact_file(store, run_id, stage, name)
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{stage} of {run_id} left no {name} that can be shown.")
        return stored_file_response(name, content)

    @site.get("/static/{name}")
    def static(name: str) -> Response:
        if (found := pages.static_file(name)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {name} here.")
        return Response(found[0], media_type=found[1], headers=KEPT)

    # The last one: what is not there is told to those who are logged in, and not to others.
    @site.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def nothing(path: str) -> Response:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {path[:100]} here.")


def _experiment(root: str, store: Store, name: str) -> str:
    """The page that compares an experiment's recipes; how they are trained where they are not compared yet."""
    if (found := find_outcome(name, store)) is None:
        plan = find_plan(name, store)
        return pages.experiment_progress_page(store, root, name, [vars(member) for member in plan.training_runs] if plan else [])
    return pages.experiment_page(store, root, found)
