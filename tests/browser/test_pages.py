"""The pages inside Airflow as a person uses them: with mouse, with the keyboard alone, in both themes, on a phone."""

import re
import time
from pathlib import Path

import pytest
from browser_pages import PageViewer, RunningAirflow

from carclf.runs.record import run_id_from_dag_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def texts(frame, selector: str) -> list[str]:
    return frame.locator(selector).all_text_contents()


def color(frame, name: str) -> str:
    return frame.locator("html").evaluate("(root, name) => getComputedStyle(root).getPropertyValue(name).trim()", name)


# The first: the run that is watched here is the second one of the tests below.
def test_the_tab_of_a_run_that_trains_shows_a_curve_that_grows(
    airflow: RunningAirflow, training: str, viewer: PageViewer, screenshots: Path
) -> None:
    frame = viewer.report(training)
    frame.locator("#chart-live-fine_tune-loss svg").wait_for(timeout=300_000)
    frame.locator("html").evaluate("root => root.dataset.mark = 'same page'")
    points = frame.locator("#chart-live-fine_tune-loss path[aria-roledescription=point]")
    for _ in range(3):  # each time another point is drawn without the page being loaded
        points.nth(points.count()).wait_for(state="attached")
    assert re.search(r"epoch \d+, loss \d", frame.locator("#progress-fine_tune").text_content() or "")
    viewer.page.screenshot(path=screenshots / "training.png")
    assert airflow.wait(training) == "success"
    frame.locator("#chart-recalls svg").wait_for(timeout=60_000)  # and what came of it, without being asked
    assert frame.locator("html").get_attribute("data-mark") == "same page"


def test_the_page_is_found_in_the_navigation_and_shows_champion_chart_and_runs(
    airflow: RunningAirflow, second: str, viewer: PageViewer, screenshots: Path
) -> None:
    viewer.page.goto(airflow.url)
    viewer.page.get_by_text("Car classifier", exact=True).first.wait_for()
    viewer.page.locator("a[href$='/plugin/car-classifier']").click()
    frame = viewer.page.frame_locator("iframe[title='Car classifier']")
    frame.locator("#table tbody tr").nth(1).wait_for()
    frame.locator("#chart-timeline svg").wait_for()
    cells = frame.locator("#table tbody td.number").all_text_contents()
    measured = [cell for place, cell in enumerate(cells) if place % 4 < 2 and cell]  # accuracy and public score
    assert frame.locator("#chart-timeline svg path[aria-roledescription=point]").count() == len(measured) >= 3
    assert texts(frame, "#found") == ["2 runs"]
    assert frame.locator(".tiles dt").all_text_contents()[:3] == ["validation accuracy", "95% interval", "public score"]
    viewer.page.screenshot(path=screenshots / "runs.png")


def test_runs_are_sorted_and_filtered_without_loading_the_page_anew(
    airflow: RunningAirflow, second: str, viewer: PageViewer
) -> None:
    frame = viewer.runs()
    frame.locator("html").evaluate("root => root.dataset.mark = 'same page'")
    runs = [run_id_from_dag_run(airflow.run), run_id_from_dag_run(second)]
    orders = []
    for _ in range(2):
        frame.get_by_role("button", name="Accuracy").click()
        time.sleep(0.6)
        orders.append(texts(frame, "#table tbody tr a"))
    assert frame.locator("th[data-sort=val_accuracy]").get_attribute("aria-sort") == "ascending"
    assert sorted(orders[0]) == sorted(runs) and orders[1] == orders[0][::-1]
    frame.get_by_label("Search").fill(runs[1][-20:])
    frame.get_by_text("1 of 2 runs").wait_for()
    assert texts(frame, "#table tbody tr a") == [runs[1]]
    assert frame.locator("html").get_attribute("data-mark") == "same page"


def test_two_runs_are_chosen_and_compared_by_keyboard_alone(second: str, viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.runs()
    frame.get_by_label("Search").focus()
    reached = []
    for _ in range(40):
        viewer.page.keyboard.press("Tab")
        focused = frame.locator(":focus")
        kind = focused.evaluate("one => `${one.tagName} ${one.type || one.id}`")
        reached.append(kind)
        if kind == "INPUT checkbox":
            assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
            viewer.page.keyboard.press("Space")
        if reached.count("INPUT checkbox") == 2:
            break
    assert "BUTTON button" in reached and reached.count("INPUT checkbox") == 2
    for _ in range(40):
        viewer.page.keyboard.press("Shift+Tab")
        if frame.locator(":focus").get_attribute("id") == "compare":
            break
    viewer.page.keyboard.press("Enter")
    frame.get_by_role("heading", name="Two runs compared").wait_for()
    assert "seed" in texts(frame, "table th[scope=row]")
    assert "McNemar's exact test" in (frame.locator("main").text_content() or "")
    frame.locator("#chart-class-differences svg").wait_for()
    assert re.search(r"/plugin/car-classifier/carclf/compare\?a=.*&b=", viewer.page.url)  # it can be sent to others
    viewer.page.screenshot(path=screenshots / "comparison.png")


def test_a_picture_of_an_error_is_opened_and_closed_by_keyboard(airflow: RunningAirflow, viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.report(airflow.run)
    button = frame.locator(".error button").first
    button.scroll_into_view_if_needed()
    button.focus()
    viewer.page.keyboard.press("Enter")
    dialog = frame.locator("dialog[open]")
    dialog.wait_for()
    pictures = dialog.locator("img")
    assert pictures.count() == 2 and all(text for text in pictures.evaluate_all("all => all.map(one => one.alt)"))
    assert min(pictures.evaluate_all("all => all.map(one => one.naturalWidth)")) > 0
    viewer.page.screenshot(path=screenshots / "error.png")
    viewer.page.keyboard.press("Escape")
    assert frame.locator("dialog").count() == 0
    assert button.evaluate("one => one === document.activeElement")


def test_every_chart_has_a_sentence_and_a_table(airflow: RunningAirflow, viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.report(airflow.run)
    frame.locator("#chart-reliability svg").wait_for()
    charts = frame.locator("figure.chart")
    names = charts.evaluate_all("all => all.map(one => one.id)")
    assert {"chart-stage-times", "chart-recalls", "chart-reliability", "chart-fine_tune-loss"} <= set(names)
    told = charts.evaluate_all(
        "all => all.map(one => [one.querySelector('.said').textContent.length > 10,"
        " one.querySelectorAll('tbody tr').length > 0, one.querySelector('svg') !== null])")
    assert told == [[True, True, True]] * len(names)
    frame.locator("#evaluation").scroll_into_view_if_needed()
    viewer.page.screenshot(path=screenshots / "report.png")


def test_a_report_of_the_store_opens_and_is_confined(airflow: RunningAirflow, viewer: PageViewer) -> None:
    frame = viewer.report(airflow.run)
    frame.get_by_role("link", name="The whole report of evaluate").click()
    frame.get_by_role("heading", level=1, name="Evaluation").wait_for()  # the run's page has one of level 2
    assert frame.locator("body").evaluate("body => getComputedStyle(body).maxWidth") != "none"


def test_airflows_theme_is_followed_when_it_is_changed(airflow: RunningAirflow, viewer: PageViewer, screenshots: Path) -> None:
    frame = viewer.report(airflow.run)
    for theme, page in (("dark", "#0d1117"), ("light", "#fff"), ("dark", "#0d1117")):
        viewer.page.evaluate("theme => { localStorage.theme = theme; dispatchEvent(new StorageEvent('storage',"
                             "{key: 'theme', newValue: theme})) }", theme)
        frame.locator(f"html[data-theme={theme}]").wait_for()
        assert color(frame, "--page") == page
    frame.locator("#chart-recalls svg").wait_for()
    viewer.page.screenshot(path=screenshots / "dark.png")


@pytest.mark.parametrize("viewer", [PHONE], indirect=True)
def test_nothing_is_wider_than_a_phone(airflow: RunningAirflow, second: str, viewer: PageViewer, screenshots: Path) -> None:
    for name, path in {
        "runs": "/", "run": f"/runs/{run_id_from_dag_run(second)}",
        "compare": f"/compare?a={run_id_from_dag_run(airflow.run)}&b={run_id_from_dag_run(second)}",
    }.items():
        viewer.page.goto(f"{airflow.url}/carclf{path}")
        viewer.page.locator(".chart svg").first.wait_for()
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert viewer.page.evaluate(wider) <= 0, name
        viewer.page.screenshot(path=screenshots / f"phone-{name}.png")


def test_a_task_leads_to_its_part_of_the_report(airflow: RunningAirflow, viewer: PageViewer) -> None:
    viewer.page.goto(f"{airflow.url}/dags/car_retrain/runs/{airflow.run}/tasks/evaluate/details")
    viewer.page.get_by_role("link", name="Report", exact=True).last.click()
    frame = viewer.page.frame_locator("iframe[title='Car classifier']")
    frame.locator("#evaluation").wait_for()
    assert viewer.page.url.endswith("#evaluation")


def test_a_tasks_log_says_in_colours_what_went_in_and_what_came_of_it(
    airflow: RunningAirflow, viewer: PageViewer, screenshots: Path
) -> None:
    viewer.page.goto(f"{airflow.url}/dags/car_retrain/runs/{airflow.run}/tasks/validate")
    given, made = (viewer.page.get_by_text(f"validate: {text}/").first for text in ("from archives", "made datasets"))
    made.wait_for()
    style = "one => [getComputedStyle(one).color, getComputedStyle(one).fontWeight]"
    (plain, bold), (green, normal) = given.evaluate(style), made.evaluate(style)
    assert (bold, normal) == ("700", "400") and plain != green
    assert "num_classes 10" in (made.text_content() or "") and "\x1b" not in (made.text_content() or "")
    viewer.page.screenshot(path=screenshots / "log.png")


def test_whoever_is_not_logged_in_sees_nothing(airflow: RunningAirflow, browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"{airflow.url}/carclf/")
    assert answer.status == 401 and "log in" in page.content()
    context.close()
