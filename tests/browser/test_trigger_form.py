"""The trigger forms, and an experiment from form to winner. Its runs come after the tests that count runs."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from browser_pages import REPORT_PLUGIN, RUN_TIMEOUT, PageViewer, RunningAirflow

from carclf.champion import read_state
from carclf.runs.record import run_id_from_dag_run
from carclf.services.storage import open_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

MINUTES = 60_000


def wait_for_response(store: Path, run_id: str) -> dict[str, Any]:
    """Return the event of the champion's history that is about a run."""
    deadline = time.monotonic() + RUN_TIMEOUT
    while time.monotonic() < deadline:
        state = read_state(open_store(str(store)))
        if state and (events := [event for event in state["history"] if event.get("run") == run_id]):
            return events[-1]
        time.sleep(1)
    raise TimeoutError(f"No response about {run_id} within {RUN_TIMEOUT} s")


def trigger_experiment(airflow: RunningAirflow, viewer: PageViewer, sections: dict[str, dict[str, str]]) -> str:
    """Fill the fields of each section of the form and submit it; return the path of the DAG run that Airflow opens."""
    page = viewer.page
    page.goto(f"{airflow.url}/dags/car_experiments")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").filter(has_text="Trigger Dag - car_experiments")
    for section, fields in sections.items():  # opening a section closes the one before
        form.get_by_role("button", name=section, exact=True).click()
        for name, value in fields.items():
            field = form.locator(f"[name=element_{name}]")
            field.fill(value)
            field.press("Tab")
    with page.expect_response(re.compile(r"/car_experiments/dagRuns$"), timeout=2 * MINUTES) as posted:
        form.get_by_test_id("trigger-dag-submit").click()
    assert posted.value.ok, posted.value.text()
    # Airflow opens the new run when it has unpaused the DAG and reloaded its lists, which takes long on a busy machine.
    page.wait_for_url(re.compile(r"/dags/car_experiments/runs/manual"), timeout=2 * MINUTES)
    return page.url.removeprefix(airflow.url)


@pytest.mark.dags
def test_an_experiment_can_be_followed_from_its_form_to_its_winner(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    path = trigger_experiment(airflow, viewer, {
        "Recipes": {"settings": "fine_tune.epochs=1 head.epochs=2", "recipes": "longer fine_tune.epochs=8"},
        "Design": {"seeds": "0"},
    })
    frame = viewer.open_frame(f"{path}/plugin/car-classifier-report", REPORT_PLUGIN)
    frame.locator("html").evaluate("root => root.dataset.mark = 'same page'")
    frame.get_by_role("heading", name="Training runs: 2 of 2 started").wait_for(timeout=8 * MINUTES)
    assert frame.locator("tbody th").all_text_contents() == ["baseline", "longer"]
    viewer.page.screenshot(path=screenshots / "training_runs.png")
    frame.get_by_role("heading", name="Winner").wait_for(timeout=8 * MINUTES)
    assert frame.locator("html").get_attribute("data-mark") == "same page"
    winner = frame.locator("#winner + p a")
    assert (winner.text_content() or "").endswith("-longer-s0")
    command = frame.locator("code.command").first.text_content()
    assert command == f"carclf champion promote --run {winner.text_content()} --store {airflow.store}"
    viewer.page.screenshot(path=screenshots / "winner.png")
    winner.click()
    frame.get_by_role("heading", name=re.compile(r"^Run \S")).wait_for()


def test_a_candidate_is_judged_and_rejected_on_its_approval_page(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    run_id = airflow.trigger(**{
        "fine_tune.epochs": 9, "gate.approval": "required", "gate.min_recall": 0, "gate.max_calibration_error": 1,
        "gate.champion_rule": "off"})
    assert airflow.wait(run_id) == "success"
    frame = viewer.open_runs()
    frame.get_by_role("link", name=run_id_from_dag_run(run_id), exact=True).click()
    frame.get_by_role("link", name="Approve or reject").click()
    frame.get_by_role("heading", name="Approval of").wait_for()
    reject = frame.get_by_role("button", name="Reject")
    reject.and_(frame.locator(":enabled")).wait_for()
    assert frame.locator("#changes ~ h3").count() >= 4
    frame.get_by_label("Note").fill("too few <b>images</b>")
    viewer.page.screenshot(path=screenshots / "approval.png")
    reject.click()
    frame.get_by_text("Rejected. The result appears").wait_for()
    response = wait_for_response(airflow.store, run_id_from_dag_run(run_id))
    assert (response["action"], response["by"], response["note"]) == ("declined", "admin", "too few <b>images</b>")


def test_a_run_is_started_from_its_page_after_a_look_at_what_it_reuses(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    frame = viewer.open_runs()
    frame.get_by_role("link", name="Start a run").click()
    start = frame.get_by_role("button", name="Start the run")
    epochs, stages = frame.locator("[name='fine_tune.epochs']"), frame.locator("#preview tbody tr")
    stages.filter(has_text="evaluate").filter(has_text="reused from").wait_for()
    assert epochs.get_attribute("placeholder") == "recipe: 10"
    frame.get_by_label("Recipe").select_option("cpu")
    frame.locator("[name='fine_tune.epochs'][placeholder='recipe: 9']").wait_for(state="attached")
    frame.get_by_label("Recipe").select_option("demo")
    frame.locator("[name='fine_tune.epochs'][placeholder='recipe: 10']").wait_for(state="attached")
    frame.get_by_text("Fine tune", exact=True).click()
    epochs.fill("-1")
    frame.get_by_text("fine_tune.epochs = -1").wait_for()
    assert start.is_disabled()
    viewer.page.screenshot(path=screenshots / "start_error.png")
    epochs.fill("1")
    stages.filter(has_text="fine_tune").filter(has_text="runs").wait_for()
    frame.get_by_label("Note").fill("from the page")
    viewer.page.screenshot(path=screenshots / "start.png")
    with viewer.page.expect_response(re.compile(r"/car_retrain/dagRuns$")) as posted:
        start.click()
    run = posted.value.json()
    assert (run["conf"], run["note"]) == ({"fine_tune.epochs": 1, "recipe": "demo"}, "from the page")
    frame.get_by_role("heading", name=re.compile(r"^Run \S")).wait_for()
    assert airflow.wait(run["dag_run_id"]) == "success"
    frame.get_by_role("link", name="change and start it here").click()
    assert frame.locator("[name='fine_tune.epochs']").input_value() == "1"


def test_the_form_shows_what_is_not_set_and_keeps_a_number_that_is_out_of_range(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    page = viewer.page
    page.goto(f"{airflow.url}/dags/car_retrain")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").filter(has_text="Trigger Dag - car_retrain")
    form.get_by_text("A named set of settings").locator("visible=true").wait_for()  # this section is open
    for section in ("Audit", "Head"):
        form.get_by_role("button", name=section, exact=True).click()
    form.get_by_text("as in the recipe").locator("visible=true").first.wait_for()
    assert form.get_by_role("checkbox", name="Enabled").count() == 0
    rate = form.locator("[name='element_head.learning_rate']")
    rate.fill("5")
    rate.press("Tab")
    assert rate.input_value() == "5"
    page.screenshot(path=screenshots / "form.png")
    form.get_by_test_id("trigger-dag-submit").click()
    form.get_by_text("5 is greater than the maximum of 1").first.wait_for()
    page.screenshot(path=screenshots / "form_error.png")
