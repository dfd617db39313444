"""The pages in Airflow as people use them: by mouse, by keyboard, in both themes, on a phone."""

import re
from pathlib import Path

import pytest
from browser_pages import RUNS_PLUGIN, PageViewer, RunningAirflow
from playwright.sync_api import Browser, FrameLocator

from carclf.runs.record import run_id_from_dag_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def texts(frame: FrameLocator, selector: str) -> list[str]:
    return frame.locator(selector).all_text_contents()


def css_variable(frame: FrameLocator, name: str) -> str:
    script = "(root, name) => getComputedStyle(root).getPropertyValue(name).trim()"
    return str(frame.locator("html").evaluate(script, name))


# This test comes first: it waits for the end of a run that the other tests need.
def test_curves_grow_while_a_run_trains_and_results_appear_at_the_end(
    airflow: RunningAirflow, active_run_id: str, viewer: PageViewer, screenshots: Path
) -> None:
    frame = viewer.open_report(active_run_id)
    frame.locator("#chart-live-fine_tune-loss svg").wait_for(timeout=300_000)
    frame.locator("html").evaluate("root => root.dataset.mark = 'same page'")
    points = frame.locator("#chart-live-fine_tune-loss path[aria-roledescription=point]")
    for _ in range(2):  # each time another point is drawn
        points.nth(points.count()).wait_for(state="attached")
    assert re.search(r"epoch \d+, loss \d", frame.locator("#progress-fine_tune").text_content() or "")
    viewer.page.screenshot(path=screenshots / "training.png")
    assert airflow.wait(active_run_id) == "success"
    frame.locator("#chart-recalls svg").wait_for(timeout=60_000)
    assert frame.locator("html").get_attribute("data-mark") == "same page"


@pytest.mark.usefixtures("finished_run_id")
def test_the_navigation_leads_to_the_champion_the_timeline_and_the_runs(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    viewer.page.goto(airflow.url)
    viewer.page.get_by_text("Car runs", exact=True).first.wait_for()
    viewer.page.locator("a[href$='/plugin/car-classifier']").click()
    frame = viewer.page.frame_locator(f"iframe[title='{RUNS_PLUGIN}']")
    frame.locator("#runs-table tbody tr").nth(1).wait_for()
    frame.locator("#chart-timeline svg").wait_for()
    cells = texts(frame, "#runs-table tbody td.number")
    scores = [cell for index, cell in enumerate(cells) if index % 4 < 2 and cell]  # accuracy and public score
    assert frame.locator("#chart-timeline svg path[aria-roledescription=point]").count() == len(scores) >= 3
    assert texts(frame, "#status") == ["2 runs"]
    assert texts(frame, ".tiles dt")[:3] == ["validation accuracy", "95% interval", "public score"]
    viewer.page.screenshot(path=screenshots / "runs.png")


def test_runs_are_sorted_and_filtered_without_a_page_load(
    airflow: RunningAirflow, finished_run_id: str, viewer: PageViewer
) -> None:
    frame = viewer.open_runs()
    frame.locator("html").evaluate("root => root.dataset.mark = 'same page'")
    runs = [run_id_from_dag_run(airflow.run_id), run_id_from_dag_run(finished_run_id)]
    orders = []
    for direction in ("descending", "ascending"):
        frame.get_by_role("button", name="Accuracy").click()
        frame.locator(f"#runs-table:not([aria-busy]) th[data-sort=val_metric][aria-sort={direction}]").wait_for()
        orders.append(texts(frame, "#runs-table tbody tr a"))
    assert sorted(orders[0]) == sorted(runs) and orders[1] == orders[0][::-1]
    frame.get_by_label("Search").fill(runs[1][-20:])
    frame.get_by_text("1 of 2 runs").wait_for()
    assert texts(frame, "#runs-table tbody tr a") == [runs[1]]
    assert frame.locator("html").get_attribute("data-mark") == "same page"


@pytest.mark.usefixtures("finished_run_id")
def test_two_runs_are_compared_by_keyboard_alone(viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.open_runs()
    frame.get_by_label("Search").focus()
    reached: list[str] = []
    while reached.count("INPUT checkbox") < 2:
        assert len(reached) < 40, reached
        viewer.page.keyboard.press("Tab")
        focused = frame.locator(":focus")
        reached.append(focused.evaluate("element => `${element.tagName} ${element.type || element.id}`"))
        if reached[-1] == "INPUT checkbox":
            assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
            viewer.page.keyboard.press("Space")
    assert "BUTTON button" in reached
    for _ in range(40):
        viewer.page.keyboard.press("Shift+Tab")
        if frame.locator(":focus").get_attribute("id") == "compare":
            break
    viewer.page.keyboard.press("Enter")
    frame.get_by_role("heading", name="Comparison of two runs").wait_for()
    assert "seed" in texts(frame, "table th[scope=row]")
    assert "McNemar's exact test" in (frame.locator("main").text_content() or "")
    frame.locator("#chart-class-differences svg").wait_for()
    assert re.search(r"/plugin/car-classifier/carclf/compare\?a=.*&b=", viewer.page.url)  # a URL that can be shared
    viewer.page.screenshot(path=screenshots / "comparison.png")


def test_an_error_image_is_opened_and_closed_by_keyboard(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    frame = viewer.open_report(airflow.run_id)
    button = frame.locator(".error button").first
    button.scroll_into_view_if_needed()
    button.focus()
    viewer.page.keyboard.press("Enter")
    dialog = frame.locator("dialog[open]")
    dialog.wait_for()
    images = dialog.locator("img")
    assert images.count() == 2 and all(images.evaluate_all("images => images.map(image => image.alt)"))
    assert min(images.evaluate_all("images => images.map(image => image.naturalWidth)")) > 0
    viewer.page.screenshot(path=screenshots / "error.png")
    viewer.page.keyboard.press("Escape")
    assert frame.locator("dialog").count() == 0
    assert button.evaluate("element => element === document.activeElement")


def test_every_chart_has_a_summary_and_a_table(airflow: RunningAirflow, viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.open_report(airflow.run_id)
    frame.locator("#chart-reliability svg").wait_for()
    charts = frame.locator("figure.chart")
    names = charts.evaluate_all("charts => charts.map(chart => chart.id)")
    assert {"chart-stage-times", "chart-recalls", "chart-reliability", "chart-fine_tune-loss"} <= set(names)
    parts = charts.evaluate_all(
        "charts => charts.map(chart => [chart.querySelector('.summary').textContent.length > 10,"
        " chart.querySelectorAll('tbody tr').length > 0, chart.querySelector('svg') !== null])")
    assert parts == [[True, True, True]] * len(names)
    frame.locator("#evaluation").scroll_into_view_if_needed()
    viewer.page.screenshot(path=screenshots / "report.png")


def test_a_stored_report_opens_in_the_frame_with_its_style(airflow: RunningAirflow, viewer: PageViewer) -> None:
    frame = viewer.open_report(airflow.run_id)
    frame.get_by_role("link", name="Full report of evaluate").click()
    frame.get_by_role("heading", level=1, name="Evaluation").wait_for()  # the page of the run has one of level 2
    assert frame.locator("body").evaluate("body => getComputedStyle(body).maxWidth") != "none"


def test_the_pages_follow_airflows_theme(airflow: RunningAirflow, viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.open_report(airflow.run_id)
    for theme, page_color in (("dark", "#0d1117"), ("light", "#fff"), ("dark", "#0d1117")):
        viewer.page.evaluate("theme => { localStorage.theme = theme; dispatchEvent(new StorageEvent('storage',"
                             "{key: 'theme', newValue: theme})) }", theme)
        frame.locator(f"html[data-theme={theme}]").wait_for()
        assert css_variable(frame, "--page") == page_color
    frame.locator("#chart-recalls svg").wait_for()
    viewer.page.screenshot(path=screenshots / "dark.png")


@pytest.mark.parametrize("viewer", [PHONE], indirect=True)
def test_no_page_is_wider_than_a_phone(
    airflow: RunningAirflow, finished_run_id: str, viewer: PageViewer, screenshots: Path
) -> None:
    runs = [run_id_from_dag_run(run_id) for run_id in (airflow.run_id, finished_run_id)]
    paths = {"runs": "/", "run": f"/runs/{runs[1]}", "compare": f"/compare?a={runs[0]}&b={runs[1]}"}
    for name, path in paths.items():
        viewer.page.goto(f"{airflow.url}/carclf{path}")
        viewer.page.locator(".chart svg").first.wait_for()
        assert viewer.page.evaluate(OVERFLOW) <= 0, name
        viewer.page.screenshot(path=screenshots / f"phone-{name}.png", full_page=True)


def test_a_task_links_to_its_section_of_the_report(airflow: RunningAirflow, viewer: PageViewer) -> None:
    viewer.page.goto(f"{airflow.url}/dags/car_retrain/runs/{airflow.run_id}/tasks/evaluate/details")
    viewer.page.get_by_role("link", name="Report", exact=True).last.click()
    frame = viewer.page.frame_locator(f"iframe[title='{RUNS_PLUGIN}']")
    frame.locator("#evaluation").wait_for()
    assert viewer.page.url.endswith("#evaluation")


def test_the_log_of_a_task_highlights_its_inputs_and_its_result(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    viewer.page.goto(f"{airflow.url}/dags/car_retrain/runs/{airflow.run_id}/tasks/validate")
    started = viewer.page.get_by_text("validate: started run=").first
    created = viewer.page.get_by_text("validate: created artifact=").first
    created.wait_for()
    style = "element => [getComputedStyle(element).color, getComputedStyle(element).fontWeight]"
    started_color, started_weight = started.evaluate(style)
    created_color, created_weight = created.evaluate(style)
    assert (started_weight, created_weight) == ("700", "400") and started_color != created_color
    text = created.text_content() or ""
    assert "num_classes=10" in text and "\x1b" not in text
    viewer.page.screenshot(path=screenshots / "log.png")


def test_the_pages_require_a_login(airflow: RunningAirflow, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    response = page.goto(f"{airflow.url}/carclf/")
    assert response is not None and response.status == 401 and "log in" in page.content()
    context.close()
