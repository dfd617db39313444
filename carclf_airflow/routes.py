"""Routes of the pages inside Airflow's UI, with their login and permissions; ``carclf.dashboard`` renders the pages.

All routes are read-only; any other method requires the permission to edit the DAG, on every route. The store is
that of the DAGs (CARCLF_STORE); a request names runs, stages, and files of manifests, never a key.
"""

import os
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from carclf.config import load_policy, require_recipe
from carclf.dashboard import pages
from carclf.dashboard.run_facts import artifact_file
from carclf.dashboard.run_list import RunQuery, query_runs, runs_as_csv
from carclf.dashboard.run_report import current_report
from carclf.dashboard.several_runs import compare_several, several_as_csv
from carclf.dashboard.start_view import StartQuery
from carclf.errors import ConfigError
from carclf.experiments.plan import find_plan, find_rejection
from carclf.experiments.results import find_outcome, find_report
from carclf.runs.record import run_id_from_dag_run
from carclf.services.storage import Store, open_store, require_marker
from carclf_airflow.deployment import deployment_recipe
from carclf_airflow.ids import EXPERIMENTS_DAG, PROMOTE_DAG, RETRAIN_DAG, approval_subject
from carclf_airflow.plugin import URL_PREFIX
from carclf_airflow.responses import SAFE_METHODS, add_error_handlers, app_root_path, stored_file_response

T = TypeVar("T")
STATIC_HEADERS = {"Cache-Control": "private, max-age=86400"}  # the URLs of script and style change with their content
ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
require_read = requires_access_dag("GET", param_dag_id=RETRAIN_DAG)
require_edit = requires_access_dag("PUT", param_dag_id=RETRAIN_DAG)
require_read_experiments = requires_access_dag("GET", param_dag_id=EXPERIMENTS_DAG)


def require_permission(request: Request, user: GetUserDep) -> None:
    """Require the permission to read the DAG, or to edit it for a method that could change something."""
    check = require_read if request.method in SAFE_METHODS else require_edit
    check(request, user)


def may_start(user: GetUserDep) -> bool:
    """Return whether the user may start runs of the DAG."""
    return _may("POST", DagAccessEntity.RUN, RETRAIN_DAG, user)


def may_respond(user: GetUserDep) -> bool:
    """Return whether the user may approve and reject candidates."""
    return _may("PUT", DagAccessEntity.HITL_DETAIL, PROMOTE_DAG, user)


def _may(method: Literal["POST", "PUT"], entity: DagAccessEntity, dag_id: str, user: BaseUser) -> bool:
    return bool(get_auth_manager().is_authorized_dag(
        method=method, access_entity=entity, details=DagDetails(id=dag_id), user=user))


MayStart = Annotated[bool, Depends(may_start)]
MayRespond = Annotated[bool, Depends(may_respond)]


open_store_once = cache(open_store)  # connecting to S3 takes a third of a second


def open_pages_store() -> Store:
    """Return the store of the DAGs (CARCLF_STORE); HTTP status 503 if it cannot be opened."""
    try:
        store = open_store_once(os.environ.get("CARCLF_STORE") or "store")
        require_marker(store)
    except ConfigError as error:
        message = f"{error} Fix CARCLF_STORE of the api-server."
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, message) from error
    return store


PagesStore = Annotated[Store, Depends(open_pages_store)]


def create_app() -> FastAPI:
    """Return the app; each of its routes requires a login and the permission to read the DAG."""
    app = FastAPI(title="Car classifier", docs_url=None, redoc_url=None, openapi_url=None,
                  dependencies=[Depends(require_permission)])
    add_error_handlers(app)
    _add_pages(app)
    _add_start(app)
    _add_data(app)
    _add_files(app)
    _add_fallback(app)
    return app


def _add_pages(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse)
    def runs(request: Request, store: PagesStore, can_start: MayStart) -> str:
        return pages.runs_page(store, app_root_path(request), can_start=can_start)

    @app.get("/runs/{run_id}", response_class=HTMLResponse)
    def run(request: Request, run_id: str, store: PagesStore, can_start: MayStart) -> str:
        return pages.run_page(store, app_root_path(request), run_id, can_start=can_start)

    # Also requires the permission to read the DAG that the request names.
    @app.get("/dag-run", response_class=HTMLResponse, dependencies=[Depends(requires_access_dag("GET"))])
    def dag_run(request: Request, store: PagesStore, dag_id: str, run_id: str, can_start: MayStart) -> str:
        return _dag_run_page(app_root_path(request), store, dag_id, run_id_from_dag_run(run_id), can_start)

    @app.get("/runs/{run_id}/approval", response_class=HTMLResponse)
    def approval(request: Request, run_id: str, store: PagesStore, user: GetUserDep, can_respond: MayRespond) -> str:
        root, policy = app_root_path(request), _governed(load_policy)
        return pages.approval_page(store, root, run_id, policy, user.get_name(), can_respond=can_respond,
                                   api=_api(root, PROMOTE_DAG), subject=approval_subject(run_id))

    @app.get("/compare", response_class=HTMLResponse)
    def compare(request: Request, store: PagesStore, a: str, b: Annotated[list[str], Query(min_length=1)]) -> str:
        if len(b) > 1:
            return pages.several_runs_page(store, app_root_path(request), [a, *b])
        return pages.comparison_page(store, app_root_path(request), a, b[0])

    @app.get("/policy", response_class=HTMLResponse)
    def policy(request: Request) -> str:
        return _governed(lambda: pages.policy_page(app_root_path(request)))


def _add_start(app: FastAPI) -> None:
    @app.get("/start", response_class=HTMLResponse)
    def start(request: Request, store: PagesStore, query: Annotated[StartQuery, Query()], can_start: MayStart) -> str:
        if not can_start:
            raise HTTPException(HTTPStatus.FORBIDDEN, "You do not have permission to start runs of this DAG.")
        root = app_root_path(request)
        recipe = require_recipe(query.recipe or deployment_recipe())
        return _governed(lambda: pages.start_page(store, root, recipe, query.set, api=_api(root, RETRAIN_DAG),
                                                  note=query.note))


def _add_data(app: FastAPI) -> None:
    @app.get("/data/runs")
    def data_runs(store: PagesStore, query: Annotated[RunQuery, Query()]) -> dict[str, Any]:
        return query_runs(store, query).to_json()

    @app.get("/data/runs.csv")
    def table(store: PagesStore, query: Annotated[RunQuery, Query()]) -> Response:
        return stored_file_response("runs.csv", runs_as_csv(store, query).encode(errors="backslashreplace"))

    @app.get("/data/compare.csv")
    def comparison(store: PagesStore, a: str, b: Annotated[list[str], Query(min_length=1)]) -> Response:
        table = several_as_csv(compare_several(store, [a, *b]))
        return stored_file_response("comparison.csv", table.encode(errors="backslashreplace"))

    @app.get("/data/timeline")
    def timeline(store: PagesStore) -> dict[str, Any]:
        return pages.timeline(store)

    @app.get("/data/runs/{run_id}/live")
    def live(run_id: str, store: PagesStore) -> dict[str, Any]:
        return pages.live(store, run_id)


def _add_files(app: FastAPI) -> None:
    # 95% of the time is spent on drawing charts, 0.1 s each. With a report in each thread, the event loop seldom runs.
    # One report at a time keeps the api-server responsive; requests for the same report get the result of the first.
    limiter = CapacityLimiter(1)

    @app.get("/runs/{run_id}/report.html")
    async def report(run_id: str, store: PagesStore) -> Response:
        page = await to_thread.run_sync(current_report, store, run_id, limiter=limiter)
        return stored_file_response(f"{run_id}.html", page.encode(errors="backslashreplace"))

    @app.get("/experiments/{name}/report.html", dependencies=[Depends(require_read_experiments)])
    def experiment_report(name: str, store: PagesStore) -> Response:
        if (page := find_report(name, store)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"The store has no comparison of an experiment {name[:100]}.")
        return stored_file_response(f"{name}.html", page)

    @app.get("/runs/{run_id}/files/{stage}/{name}")
    def file(run_id: str, stage: str, name: str, store: PagesStore) -> Response:
        content = artifact_file(store, run_id, stage, name)
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{stage} of {run_id} has no file {name} that can be shown.")
        return stored_file_response(name, content)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if (asset := pages.static_file(name)) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"No static file {name}.")
        content, media_type = asset
        return Response(content, media_type=media_type, headers=STATIC_HEADERS)


def _add_fallback(app: FastAPI) -> None:
    # The last route: without a login, a URL that does not exist returns 401 like all others.
    @app.api_route("/{path:path}", methods=ALL_METHODS)
    def not_found(path: str) -> Response:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"No page {path[:100]}.")


def _api(root: str, dag_id: str) -> str:
    """Return the URL of a DAG in Airflow's REST API, given that of the pages."""
    return f"{root.removesuffix(URL_PREFIX)}/api/v2/dags/{dag_id}"


def _governed(read: Callable[[], T]) -> T:
    """Return what depends on the policy, such as a page; HTTP status 500 if the policy is invalid."""
    try:
        return read()
    except ConfigError as error:
        raise HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error


def _dag_run_page(root: str, store: Store, dag_id: str, run_id: str, can_start: bool) -> str:
    if dag_id == EXPERIMENTS_DAG:
        return _experiment_page(root, store, run_id)
    if dag_id == PROMOTE_DAG:
        # A run of it may be about several candidates, or about none.
        return pages.runs_page(store, root, can_start=can_start)
    if dag_id != RETRAIN_DAG:
        return pages.error_page(root, "No report", f"Runs of the DAG {dag_id} do not train a car classifier.")
    if not pages.run_exists(store, run_id):
        return pages.error_page(root, "Not started", f"The run {run_id} has not started yet, or it ended before its "
                                "first stage. Its report appears here.", awaited_run_id=run_id)
    return pages.run_page(store, root, run_id, can_start=can_start)


def _experiment_page(root: str, store: Store, name: str) -> str:
    """Return the comparison of an experiment's recipes, or the progress of its trainings until there is one."""
    if (outcome := find_outcome(name, store)) is not None:
        return pages.experiment_page(store, root, outcome, has_report=find_report(name, store) is not None)
    plan = find_plan(name, store)
    if plan is None and (reason := find_rejection(name, store)):
        return pages.error_page(root, "The experiment was rejected", reason)
    trainings = [vars(training_run) for training_run in plan.training_runs] if plan else []
    return pages.experiment_progress_page(store, root, name, trainings)
