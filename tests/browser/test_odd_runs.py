"""Empty stores, odd texts and a server that stops, without Airflow's login."""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from browser_pages import TIMEOUT_MS
from gate_candidates import build_candidate, build_split
from playwright.sync_api import Browser, Page
from recorded_runs import record_attempt, record_candidate

from carclf.config import load_config
from carclf.runs.index import rebuild_index
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, init_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LONG = "<img src=x onerror=alert(1)> ü😀 \u202e" + 300 * "x"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
Serve = Callable[[str], AbstractContextManager[str]]
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(tmp_path / "store")


def record_evaluated_run(store: Store, run_id: str, accuracy: float, created: str = "2026-11-25T14:00") -> Run:
    """Record a run that was started at a time (UTC) and is evaluated but not finished."""
    run = Run.start_or_resume(run_id, store, "demo", load_config("demo"))
    metrics = {"val_accuracy": accuracy, "val_accuracy_low": 0.5, "val_accuracy_high": 0.9}
    run.record_result(Result("evaluate", "0", False, 1.0, metrics, ""))
    record = store.read(f"runs/{run_id}.json")
    assert record is not None
    times = run.record["created"].encode(), f"{created}:00.000+00:00".encode()
    store.write(f"runs/{run_id}.json", record.data.replace(*times))
    rebuild_index(store)
    return Run.load(run_id, store)


@contextmanager
def open_page(browser: Browser, **options: object) -> Iterator[Page]:
    page = browser.new_page(**options)  # type: ignore[arg-type]
    page.set_default_timeout(TIMEOUT_MS)
    page.on("dialog", lambda dialog: pytest.fail(f"a text of the store ran as a script: {dialog.message}"))
    yield page
    page.close()


def test_an_empty_store_explains_how_to_start(store: Store, serve: Serve, browser: Browser) -> None:
    with serve(store.url) as url, open_page(browser) as page:
        page.goto(url)
        page.locator("#status", has_text="car_retrain").wait_for()
        assert page.locator("#position").text_content() == "None"


def test_odd_texts_are_shown_literally_and_fit_on_a_phone(
    store: Store, serve: Serve, browser: Browser, screenshots: Path
) -> None:
    record_attempt(record_evaluated_run(store, "failed", 0.7), "download", "failed", text=LONG)
    with serve(store.url) as url, open_page(browser, **PHONE) as page:
        for path in ("/", "/runs/failed"):
            page.goto(url + path)
            page.get_by_text("failed").first.wait_for()
            assert page.evaluate(OVERFLOW) <= 0, path
        assert "<img src=x onerror=alert(1)> ü😀" in (page.locator("main").text_content() or "")
        page.screenshot(path=screenshots / "odd.png")


def test_times_are_utc_in_the_list_and_the_chart_in_any_time_zone(
    store: Store, serve: Serve, browser: Browser
) -> None:
    record_evaluated_run(store, "a", 0.7, "2026-11-25T14:00")
    record_evaluated_run(store, "b", 0.8, "2026-11-25T18:00")
    with serve(store.url) as url, open_page(browser, timezone_id="Asia/Kolkata") as page:
        page.goto(url)
        page.locator("#chart-timeline svg").wait_for()
        assert page.get_by_role("button", name="Started (UTC)").count() == 1
        page.locator("#runs-table tbody").get_by_text("2026-11-25 14:00").wait_for()
        ticks = page.locator("#chart-timeline .role-axis-label text").all_text_contents()
        assert "15:00" in ticks and "UTC" in page.locator("#chart-timeline svg").all_text_contents()[0]


def test_filters_offer_the_current_values_when_the_list_is_loaded_again(
    store: Store, serve: Serve, browser: Browser
) -> None:
    run = record_evaluated_run(store, "run", 0.7)
    with serve(store.url) as url, open_page(browser) as page:
        page.goto(url)
        page.locator("#filter [name=state] option[value=incomplete]").wait_for(state="attached")
        record_attempt(run, "promote", "failed", text="no")
        page.get_by_label("Search").fill("run")
        page.locator("#filter [name=state] option[value=failed]").wait_for(state="attached")
        page.get_by_label("State").select_option("failed")
        page.get_by_text("1 run").wait_for()
        assert page.locator("#filter [name=state] option").all_text_contents() == ["all", "failed"]


def test_the_filtered_list_can_be_downloaded_as_csv(store: Store, serve: Serve, browser: Browser) -> None:
    for run_id, accuracy in (("one", 0.7), ("two", 0.8)):
        record_evaluated_run(store, run_id, accuracy)
    with serve(store.url) as url, open_page(browser) as page:
        page.goto(url)
        page.get_by_label("Search").fill("two")
        page.get_by_text("1 of 2 runs").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download as CSV").click()
        head, *lines = csv.reader(download.value.path().read_text().splitlines())
        assert (download.value.suggested_filename, [line[0] for line in lines]) == ("runs.csv", ["two"])
        assert lines[0][head.index("val_accuracy")] == "0.8"


def test_the_focus_survives_a_reload_of_the_page(store: Store, serve: Serve, browser: Browser) -> None:
    run = record_evaluated_run(store, "run", 0.7)
    with serve(store.url) as url, open_page(browser) as page:
        page.goto(f"{url}/runs/run")
        elements = page.get_by_role("link", name="All runs"), page.get_by_text("repeat split", exact=True)
        for number, element in enumerate(elements):
            element.focus()
            run.record_result(Result("split", f"{number}", False, 1.0, {}, f"split {number}"))
            page.get_by_text(f"split {number}", exact=True).wait_for()
            page.wait_for_timeout(500)
            assert element.evaluate("element => element === document.activeElement"), number


def test_a_page_reports_that_it_cannot_be_updated(store: Store, serve: Serve, browser: Browser) -> None:
    record_evaluated_run(store, "run", 0.7)
    with open_page(browser) as page:
        with serve(store.url) as url:
            page.goto(f"{url}/runs/run")
            page.locator("h1").wait_for()
        page.get_by_text("Not up to date since").wait_for()


def test_three_runs_are_selected_and_compared_with_the_first(
    store: Store, serve: Serve, browser: Browser, screenshots: Path
) -> None:
    split = build_split(store)
    for name, num_wrong in (("a", 20), ("b", 2), ("c", 10)):
        record_candidate(store, name, build_candidate(store, name, range(num_wrong), split=split))
    with serve(store.url) as url, open_page(browser) as page:
        page.goto(url)
        for name in ("c", "a", "b"):
            page.get_by_label(f"Compare {name}", exact=True).check()
        page.wait_for_url("**/?a=c&b=a&b=b")  # the selection is kept when the page is shared or loaded again
        page.reload()
        page.get_by_role("link", name="Compare the 3 runs").click()
        page.get_by_role("heading", name="Comparison of 3 runs").wait_for()
        rows = page.locator("#several tbody tr")
        assert [rows.nth(n).locator("td").nth(5).text_content().split(":")[0].strip() for n in range(3)] == [
            "baseline", "worse", "better"]
        page.get_by_role("link", name="use as baseline").first.click()
        page.wait_for_url("**/compare?a=a&b=c&b=b")
        with page.expect_download() as download:
            page.get_by_text("Download as CSV").click()
        assert [row["run"] for row in csv.DictReader(download.value.path().open())] == ["a", "c", "b"]
        page.screenshot(path=screenshots / "several.png")
