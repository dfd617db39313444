"""Permissions to respond to an approval and to start a run, in Airflow's routes with its login."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

APPROVAL = "/api/v2/dags/car_retrain/dagRuns/r/taskInstances/approval.ask/-1/hitlDetails"
RUNS = ("/api/v2/dags/car_retrain/dagRuns", "/api/v2/dags/car_experiments/dagRuns")
REQUESTS = {
    ("PATCH", APPROVAL): {"chosen_options": ["Approve"], "params_input": {}},
    ("POST", RUNS[0]): {"logical_date": None, "conf": {"gate.threshold": 0.1}},
    ("POST", RUNS[1]): {"logical_date": None, "conf": {"promote": True}},
}


@pytest.fixture
def anonymous_client(app: FastAPI) -> TestClient:
    """A client of Airflow's REST API; its database has no DAGs, so a permitted request returns 404."""
    from airflow.api_fastapi.app import create_app

    return TestClient(create_app(apps="core"), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("client", "status"),
    [("anonymous_client", 401), ("client_without_role", 403), ("viewer", 403), ("editor", 404)],
)
def test_only_an_editor_of_the_dag_may_approve_or_start_a_run(
    request: pytest.FixtureRequest, client: str, status: int
) -> None:
    fixture: TestClient = request.getfixturevalue(client)
    statuses = {target: fixture.request(*target, json=body).status_code for target, body in REQUESTS.items()}
    assert statuses == dict.fromkeys(REQUESTS, status)
