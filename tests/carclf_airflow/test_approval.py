"""The approval question and the options of ``carclf promote`` for each response."""

import json
from pathlib import Path
from typing import Any

import pytest
from airflow_process import airflow_environment, printed_json, run_python

CODE = """
    import json, sys
    from carclf_airflow import approval
    print(json.dumps([approval.question(json.loads(sys.argv[1])),
                      [approval.response_options(response) for response in json.loads(sys.argv[2])]]))
"""
CANDIDATE = {
    "run": "r-1", "model": "m",
    "metrics": {"threshold": 0.9, "val_accuracy": 0.95, "decision": "awaiting approval", "champion": "",
                "reason": "awaiting approval: all\nhold", "minimum_detectable_difference": 0.0123456,
                "report": "decisions/d/report.html", "decision_key": "d"},
    "evaluation": {"val_accuracy": 0.95, "val_accuracy_low": 0.93, "val_accuracy_high": 0.97, "metric": "log_loss",
                   "val_metric": 0.2, "val_metric_low": 0.1, "val_metric_high": 0.3, "num_images": 500,
                   "weakest_class": "a|<b[`\nc", "weakest_recall": 0.8},
}
ADA = {"id": "1", "name": "Ada"}
RESPONSES = [
    {"chosen_options": ["Approve"], "params_input": {"note": "-x"}, "responded_by_user": ADA},
    {"chosen_options": ["Reject"], "params_input": {}, "responded_by_user": ADA},
    {"chosen_options": ["Reject"], "params_input": {}, "responded_by_user": None},
]


COMPLETE = """
    import json, sys
    from airflow.sdk.timezone import utcnow
    from carclf_airflow import approval
    question = approval.ask("s", "b")
    event = {"chosen_options": ["Approve"], "responded_at": utcnow(), "responded_by_user": {"id": "1", "name": "Ada"}}
    responses = [question.execute_complete({}, event | {"params_input": params}) for params in json.loads(sys.argv[1])]
    print(json.dumps([[response["chosen_options"], response["params_input"]] for response in responses]))
"""


ACT = """
    from unittest import mock
    from airflow.sdk.exceptions import AirflowFailException
    from carclf_airflow import approval
    with mock.patch.object(approval, "get_current_context", dict):
        try:
            approval.act_on_response.function("r", "d", None)
        except AirflowFailException as error:
            print(error)
"""


def test_a_question_that_ended_without_a_response_fails_without_a_retry(tmp_path: Path) -> None:
    """Airflow lets an operator set the state of the task by hand."""
    assert run_python(ACT, airflow_environment(tmp_path)).stdout.endswith(
        "The task ask has ended without a response. Clear it to ask again.\n")


def test_a_response_is_not_lost_because_of_its_note(tmp_path: Path) -> None:
    """Airflow's API accepts any fields; it checks them only after the response has been recorded."""
    given = [{"note": "x" * 1500}, {"note": 7}, {"note": None}, {"other": "field"}, {}, None]
    environment = airflow_environment(tmp_path)
    notes = ["x" * 999 + "\u2026", "7", "", "", "", ""]
    assert printed_json(COMPLETE, environment, json.dumps(given)) == [[["Approve"], {"note": note}] for note in notes]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = {"AIRFLOW__API__BASE_URL": "https://host/airflow/", "CARCLF_APPROVAL_TIMEOUT_HOURS": "1.5"}
    environment = airflow_environment(tmp_path_factory.mktemp("airflow"), **settings)
    return printed_json(CODE, environment, json.dumps(CANDIDATE), json.dumps(RESPONSES))


def test_the_question_shows_the_metrics_and_links_the_report(printed: Any) -> None:
    question = printed[0]
    assert (question["run"], question["decision"]) == ("r-1", "d")
    assert "r-1" in question["subject"]
    lines = question["body"].splitlines()
    assert lines[0] == "awaiting approval: all hold"
    assert [line for line in lines if line.startswith("|")] == [
        "| metric | |", "|---|---|",
        "| validation log loss (lower is better) | 0.2000 (95%: 0.1000 to 0.3000, 500 images) |",
        "| validation accuracy | 0.9500 (95%: 0.9300 to 0.9700, 500 images) |",
        r"| weakest class | a\|\<b\[\` c, recall 0.8000 |",
        "| calibration error | unknown |",
        "| stored threshold | 0.9000 |",
        "| champion | none yet |",
        "| minimum detectable difference | 0.01235 |",
    ]
    assert "(/airflow/plugin/car-classifier/carclf/runs/r-1/approval)" in question["body"]
    assert "1.5 hours" in question["body"]


def test_a_response_becomes_options_of_promote(printed: Any) -> None:
    assert printed[1] == [
        ["--approved-by=Ada", "--note=-x"], ["--declined-by=Ada", "--note="],
        ["--expired", "--note=no response within 1.5 hours"]]
