"""What each role may read and change: the table of docs/roles.md, checked by requests to Airflow's app."""

import json
import re
import subprocess
import sys
from itertools import product
from typing import Any

import pytest
from airflow_process import ROOT, airflow_environment, printed_json

pytestmark = pytest.mark.integration

ROLES = ("Viewer", "Operator", "Approver", "Admin")
USERS = ("anonymous", "nobody", *ROLES)
DAGS = sorted(path.stem for path in (ROOT / "dags").glob("car_*.py"))
ROW = re.compile(r"(?m)^\| [^|]*\| `(\w+) (/\S+)` \|" + " (yes|no) \\|" * len(ROLES) + "$")
DOCUMENTATION = (ROOT / "docs/roles.md").read_text()
TABLE = {f"{method} {path}": permitted for method, path, *permitted in ROW.findall(DOCUMENTATION)}
AUTH_MANAGER = re.findall(r"AIRFLOW__CORE__AUTH_MANAGER: (\S+)", (ROOT / "docker-compose.yml").read_text())[0]
CODE = """
    import json, re, sys
    from airflow.api_fastapi.app import create_app
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from airflow.utils.session import create_session
    from fastapi.testclient import TestClient
    from sqlalchemy import select
    from carclf_airflow import routes
    sys.path.insert(0, sys.argv[1])
    from start_api_server import prepare_database
    users, requests = map(json.loads, sys.argv[2:])
    prepare_database("first")
    prepare_database("second")
    with get_application_builder() as builder:
        for name in ("nobody", "Viewer", "Operator", "Approver"):
            builder.sm.add_user(name, name, "", name, builder.sm.find_role(name), "second")
    statuses = {}
    pages = ["/carclf" + route.path for route in routes.create_app().routes]
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        def log_in(name, password):
            return client.post("/auth/token", json={"username": name, "password": password})
        logins = [log_in("admin", "first").status_code, log_in("admin", "second").status_code]
        form = client.get("/auth/login/").text
        token = re.search('name="csrf_token"[^>]*value="([^"]+)"', form).group(1)
        response = client.post("/auth/login/", data={"username": "Viewer", "password": "second", "csrf_token": token},
                               follow_redirects=False)
        by_form = [response.status_code, client.get("/carclf/").status_code]
        for user in users:
            client.cookies.clear()
            headers = {}
            if user != "anonymous":
                login = log_in("admin" if user == "Admin" else user, "second")
                headers = {"Authorization": "Bearer " + login.json()["access_token"]}
            for request in requests:
                method, path = request.split()
                body = {"logical_date": None} if path.endswith("/dagRuns") else None
                response = client.request(method, path, json=body, headers=headers)
                statuses.setdefault(request, {})[user] = response.status_code
        with create_session() as session:
            task = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == "car_promote")).first()
            session.add(HITLDetail(ti_id=task.id, options=["Approve", "Reject"], subject="Promote?"))
            question = f"/api/v2/dags/car_promote/dagRuns/{task.run_id}/taskInstances/{task.task_id}/-1/hitlDetails"
        responses = []
        for user in ("Operator", "Approver"):
            headers = {"Authorization": "Bearer " + log_in(user, "second").json()["access_token"]}
            body = {"chosen_options": ["Approve"], "params_input": {}}
            response = client.patch(question, json=body, headers=headers)
            responses.append([response.status_code, response.json().get("responded_by", {}).get("name")])
    print(json.dumps({"statuses": statuses, "pages": pages, "logins": logins, "by_form": by_form,
                      "responses": responses}))
"""


def requests_of(row: str) -> list[str]:
    """Return the requests of a row: one for each DAG without a row of its own if it contains ``{dag}``."""
    filled = re.sub(r"\{(?!dag\})[^}]+\}", "x", row)
    names = DAGS if "{dag}" in row else [""]
    return [request for name in names if (request := filled.replace("{dag}", name)) == row or request not in TABLE]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Status by request and user, from an Airflow whose database contains all DAGs; the routes of the pages; logins."""
    home = tmp_path_factory.mktemp("airflow")
    environment = airflow_environment(
        home, AIRFLOW__CORE__AUTH_MANAGER=AUTH_MANAGER, AIRFLOW__API_AUTH__JWT_SECRET="x" * 64,
        AIRFLOW_VAR_KAGGLE_API_TOKEN="planted", CARCLF_SCHEDULE="none")
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        subprocess.run([sys.executable, "-m", "airflow", *command], env=environment, check=True, capture_output=True)
    pages = [row for row in TABLE if row.startswith("GET /carclf/")]
    changes = [f"{method} {page[4:]}" for method, page in product(("POST", "PUT", "PATCH", "DELETE"), pages)]
    requests = [request for row in [*TABLE, *changes] for request in requests_of(row)]
    result: dict[str, Any] = printed_json(
        CODE, environment, str(ROOT / "docker"), json.dumps(USERS), json.dumps(requests))
    return result


def test_each_role_may_do_what_is_documented(observed: dict[str, Any]) -> None:
    for row, permitted in TABLE.items():
        for request in requests_of(row):
            statuses = observed["statuses"][request]
            allowed = ["no" if statuses[role] in (401, 403) else "yes" for role in ROLES]
            assert (request, allowed) == (request, permitted)
            assert max(statuses.values()) < 500


def test_no_request_is_allowed_without_a_login_or_a_role(observed: dict[str, Any]) -> None:
    statuses = observed["statuses"]
    assert {codes["anonymous"] for codes in statuses.values()} == {401}
    rest = {codes["nobody"] for request, codes in statuses.items() if "/execution/" not in request}
    assert rest == {403}


def test_nobody_can_change_anything_on_a_page(observed: dict[str, Any]) -> None:
    changes = {request: codes for request, codes in observed["statuses"].items()
               if "/carclf/" in request and not request.startswith("GET")}
    assert {code for codes in changes.values() for code in codes.values()} == {401, 403, 404}


def test_an_approvers_response_has_the_name_of_the_user(observed: dict[str, Any]) -> None:
    assert observed["responses"] == [[403, None], [200, "Approver"]]


@pytest.mark.parametrize("name", ["car_promote", "car_retrain"])
def test_an_operator_starts_a_run(observed: dict[str, Any], name: str) -> None:
    assert observed["statuses"][f"POST /api/v2/dags/{name}/dagRuns"]["Operator"] == 200


def test_the_documentation_lists_all_pages(observed: dict[str, Any]) -> None:
    listed = {row.removeprefix("GET ").partition("?")[0] for row in TABLE if row.startswith("GET /carclf/")}
    assert listed == set(observed["pages"])


def test_the_administrators_password_is_that_of_the_last_start(observed: dict[str, Any]) -> None:
    assert observed["logins"] == [401, 201]


def test_a_user_can_log_in_with_the_form(observed: dict[str, Any]) -> None:
    assert observed["by_form"] == [302, 200]
