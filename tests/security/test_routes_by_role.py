"""What each role of Airflow may read and change: the pages, approvals, runs, variables and connections."""

import json
from pathlib import Path

from airflow_process import airflow_environment, printed_json

# The status of each request by role. 404: permitted, but this database has no DAGs, variables or connections.
APPROVAL = "/api/v2/dags/car_promote/dagRuns/r/taskInstances/candidate.ask/0/hitlDetails"
ROLES = ("anonymous", "none", "viewer", "user", "op", "admin")
EXPECTED = {
    "GET /carclf/": (401, 403, 200, 200, 200, 200),
    "GET /carclf/policy": (401, 403, 200, 200, 200, 200),
    "GET /carclf/data/runs": (401, 403, 200, 200, 200, 200),
    "GET /carclf/runs/x/report.html": (401, 403, 404, 404, 404, 404),
    "POST /carclf/": (401, 403, 403, 404, 404, 404),
    "DELETE /carclf/runs/x": (401, 403, 403, 404, 404, 404),
    f"PATCH {APPROVAL}": (401, 403, 403, 404, 404, 404),
    "POST /api/v2/dags/car_retrain/dagRuns": (401, 403, 403, 404, 404, 404),
    "POST /api/v2/dags/car_experiments/dagRuns": (401, 403, 403, 404, 404, 404),
    "PATCH /api/v2/dags/car_retrain": (401, 403, 403, 404, 404, 404),
    "GET /api/v2/variables/kaggle_api_token": (401, 403, 403, 403, 404, 404),
    "GET /api/v2/connections/smtp_default": (401, 403, 403, 403, 404, 404),
    "GET /execution/variables/kaggle_api_token": (401, 401, 401, 401, 401, 401),
}
CODE = """
    import json, sys
    from airflow import settings
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models.base import Base
    from airflow.utils.db import import_all_models
    from fastapi.testclient import TestClient
    import_all_models()
    Base.metadata.create_all(settings.engine)
    app = create_app()
    bodies = {"hitlDetails": {"chosen_options": ["Approve"], "params_input": {}}, "dagRuns": {"logical_date": None},
              "car_retrain": {"is_paused": False}}
    statuses = {}
    with TestClient(app, base_url="http://testserver", raise_server_exceptions=False) as client:
        for role in json.loads(sys.argv[1]):
            client.cookies.clear()
            if role != "anonymous":
                user = SimpleAuthManagerUser(username=role, role=None if role == "none" else role)
                client.cookies.set("_token", get_auth_manager().generate_jwt(user))
            for request in json.loads(sys.argv[2]):
                method, path = request.split()
                body = bodies.get(path.rsplit("/", 1)[1])
                statuses.setdefault(request, []).append(client.request(method, path, json=body).status_code)
    print(json.dumps(statuses))
"""


def test_a_role_may_do_only_what_it_needs(tmp_path: Path) -> None:
    settings = {"AIRFLOW_VAR_KAGGLE_API_TOKEN": "planted", "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64}
    environment = airflow_environment(tmp_path, **settings)
    statuses = printed_json(CODE, environment, json.dumps(ROLES), json.dumps(list(EXPECTED)))
    assert {request: tuple(codes) for request, codes in statuses.items()} == EXPECTED
