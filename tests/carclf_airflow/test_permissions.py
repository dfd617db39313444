"""Who may answer an approval, and who may start what promotes: Airflow's own routes with its real login."""

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
def anonymous_client(site: FastAPI) -> TestClient:
    """Airflow's REST API; the DAGs are not in its database, so that what is allowed is answered by 404."""
    from airflow.api_fastapi.app import create_app

    return TestClient(create_app(apps="core"), raise_server_exceptions=False)


@pytest.mark.parametrize(("who", "status"), [("anonymous_client", 401), ("nobody", 403), ("viewer", 403), ("editor", 404)])
def test_only_who_may_edit_the_dag_approves_a_promotion_or_starts_a_run_that_makes_one(
    request: pytest.FixtureRequest, who: str, status: int
) -> None:
    client: TestClient = request.getfixturevalue(who)
    answers = {asked: client.request(*asked, json=body).status_code for asked, body in REQUESTS.items()}
    assert answers == dict.fromkeys(REQUESTS, status)
