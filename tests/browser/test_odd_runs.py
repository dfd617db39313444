"""Stores with no run, with odd ones, and a server that goes away; Airflow's login is set aside, as in the benchmark."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.runs_page import ROOT, serve
from carclf.config import load_config
from carclf.runs.index import rebuild_index
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LONG = "<img src=x onerror=alert(1)> ü😀 \u202e" + 300 * "x"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def served(store: Store, home: Path) -> Iterator[str]:
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.runs_page:site", "--port"]
    environment = {"CARCLF_STORE": store.url, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    with serve(uvicorn, environment, "/static/vega.js") as url:
        yield url


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def measured(store: Store, name: str, accuracy: float, created: str) -> Run:
    """A run that was evaluated and has not ended."""
    run = Run.start_or_resume(name, store, "demo", load_config("demo"))
    run.record_result(Result("evaluate", "0", False, 1.0, {"val_accuracy": accuracy, "val_accuracy_low": 0.5, "val_accuracy_high": 0.9}, ""))
    store.write(f"runs/{name}.json", store.read(f"runs/{name}.json").data.replace(  # type: ignore[union-attr]
        run.record["created"].encode(), created.encode()))
    rebuild_index(store)
    return run


def shown(browser: Browser, **options: object) -> Page:
    page = browser.new_page(**options)  # type: ignore[arg-type]
    page.on("dialog", lambda dialog: pytest.fail(f"a script of the store ran: {dialog.message}"))
    return page


def test_a_store_without_a_run_says_how_to_begin(store: Store, tmp_path: Path, browser: Browser) -> None:
    with served(store, tmp_path) as url:
        page = shown(browser)
        page.goto(url)
        page.get_by_text("No runs yet: trigger the Dag car_retrain.").wait_for()
        assert page.locator("#place").text_content() == "None"
        page.close()


def test_odd_texts_are_shown_as_they_are_and_are_no_wider_than_a_phone(
    store: Store, tmp_path: Path, browser: Browser, screenshots: Path
) -> None:
    run = measured(store, "failed", 0.7, "2026-11-25T14:28:10.000+00:00")
    run._tell("download", run.record["created"], state="failed", text=LONG)
    with served(store, tmp_path) as url:
        page = shown(browser, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
        for path in ("/", "/runs/failed"):
            page.goto(url + path)
            page.get_by_text("failed").first.wait_for()
            assert page.evaluate(WIDER) <= 0, path
        assert "<img src=x onerror=alert(1)> ü😀" in (page.locator("main").text_content() or "")
        page.screenshot(path=screenshots / "odd.png")
        page.close()


def test_times_are_utc_in_list_and_chart_wherever_the_browser_is(
    store: Store, tmp_path: Path, browser: Browser
) -> None:
    measured(store, "a", 0.7, "2026-11-25T14:00:00.000+00:00")
    measured(store, "b", 0.8, "2026-11-25T18:00:00.000+00:00")
    with served(store, tmp_path) as url:
        page = shown(browser, timezone_id="Asia/Kolkata")
        page.goto(url)
        page.locator("#chart-timeline svg").wait_for()
        assert page.get_by_role("button", name="Begun (UTC)").count() == 1
        assert page.locator("#table tbody").get_by_text("2026-11-25 14:00").count() == 1
        ticks = page.locator("#chart-timeline .role-axis-label text").all_text_contents()
        assert "15:00" in ticks and "UTC" in page.locator("#chart-timeline svg").all_text_contents()[0]
        page.close()


def test_the_filters_offer_what_there_is_when_the_list_is_asked_again(
    store: Store, tmp_path: Path, browser: Browser
) -> None:
    run = measured(store, "run", 0.7, "2026-11-25T14:00:00.000+00:00")
    with served(store, tmp_path) as url:
        page = shown(browser)
        page.goto(url)
        page.locator("#filter [name=state] option[value=open]").wait_for(state="attached")
        run._tell("promote", run.record["created"], state="failed", text="no")
        page.get_by_label("Search").fill("run")
        page.locator("#filter [name=state] option[value=failed]").wait_for(state="attached")
        page.get_by_label("State").select_option("failed")
        page.get_by_text("1 run").wait_for()
        assert page.locator("#filter [name=state] option").all_text_contents() == ["all", "failed"]
        page.close()


def test_what_is_listed_can_be_had_as_csv(store: Store, tmp_path: Path, browser: Browser) -> None:
    for name, accuracy in (("one", 0.7), ("two", 0.8)):
        measured(store, name, accuracy, "2026-11-25T14:00:00.000+00:00")
    with served(store, tmp_path) as url:
        page = shown(browser)
        page.goto(url)
        page.get_by_label("Search").fill("two")
        page.get_by_text("1 of 2 runs").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="These runs as CSV").click()
        head, *lines = csv.reader(download.value.path().read_text().splitlines())
        assert (download.value.suggested_filename, [line[0] for line in lines]) == ("runs.csv", ["two"])
        assert lines[0][head.index("val_accuracy")] == "0.8"
        page.close()


def test_the_focus_stays_where_it_is_when_a_page_is_shown_anew(store: Store, tmp_path: Path, browser: Browser) -> None:
    run = measured(store, "run", 0.7, "2026-11-25T14:00:00.000+00:00")
    with served(store, tmp_path) as url:
        page = shown(browser)
        page.goto(f"{url}/runs/run")
        focused = page.get_by_role("link", name="All runs"), page.get_by_text("repeat split", exact=True)
        for number, one in enumerate(focused):
            one.focus()
            run.record_result(Result("split", f"{number}", False, 1.0, {}, f"split {number}"))
            page.get_by_text(f"split {number}", exact=True).wait_for()
            page.wait_for_timeout(500)
            assert one.evaluate("one => one === document.activeElement"), number
        page.close()


def test_a_page_that_is_followed_says_when_it_cannot_be_brought_up_to_date(
    store: Store, tmp_path: Path, browser: Browser
) -> None:
    measured(store, "run", 0.7, "2026-11-25T14:00:00.000+00:00")
    page = shown(browser)
    with served(store, tmp_path) as url:
        page.goto(f"{url}/runs/run")
        page.locator("h1").wait_for()
    page.get_by_text("Not up to date since").wait_for()
    page.close()
