"""An experiment as a person starts it: by the form of its DAG. After the other pages' tests, which count the runs."""

import re
from pathlib import Path

import pytest
from browser_pages import PageViewer, RunningAirflow

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

MINUTES = 60_000


def triggered(airflow: RunningAirflow, viewer: PageViewer, fields: dict[str, str]) -> str:
    """Fill in the form and send it; the address of the DAG run to which Airflow leads."""
    page = viewer.page
    page.goto(f"{airflow.url}/dags/car_experiments")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").filter(has_text="Trigger Dag - car_experiments")
    for section in ("Recipes", "Design"):
        form.get_by_role("button", name=section, exact=True).click()
        for name, value in fields.items():
            field = form.locator(f"[name=element_{name}]")
            if field.is_visible():
                field.fill(value)
                field.press("Tab")
    form.get_by_test_id("trigger-dag-submit").click()
    page.wait_for_url(re.compile(r"/dags/car_experiments/runs/manual"))
    return page.url


def test_an_experiment_is_begun_by_its_form_and_followed_in_its_tab_to_the_winner(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    address = triggered(airflow, viewer, {
        "settings": "fine_tune.epochs=1 head.epochs=2", "recipes": "longer fine_tune.epochs=8", "seeds": "0"})
    frame = viewer.open(f"{address.removeprefix(airflow.url)}/plugin/car-classifier-report", "Report")
    frame.locator("html").evaluate("root => root.dataset.mark = 'same page'")
    frame.get_by_role("heading", name="Trainings: 2 of 2 begun").wait_for(timeout=8 * MINUTES)
    assert frame.locator("tbody th").all_text_contents() == ["baseline", "longer"]
    viewer.page.screenshot(path=screenshots / "trainings.png")
    frame.get_by_role("heading", name="Winner").wait_for(timeout=8 * MINUTES)
    assert frame.locator("html").get_attribute("data-mark") == "same page"
    winner = frame.locator("#winner + p a")
    assert (winner.text_content() or "").endswith("-longer-s0")
    command = frame.locator("code.command").first.text_content()
    assert command == f"carclf champion promote --run {winner.text_content()} --store {airflow.store}"
    viewer.page.screenshot(path=screenshots / "winner.png")
    winner.click()
    frame.get_by_role("heading", name="Run ").wait_for()
