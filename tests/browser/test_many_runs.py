"""The list of 5,000 runs in a browser; Airflow's login is set aside, as in the benchmark."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from benchmarks.runs_page import ROOT, serve, write_run_records
from carclf.runs.index import rebuild_index
from carclf.services.storage import open_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NUM_RUNS, SECONDS = 5000, 2.0


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("many")
    store = open_store(folder / "store")
    write_run_records(store, NUM_RUNS)
    rebuild_index(store)
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.runs_page:site", "--port"]
    environment = {"CARCLF_STORE": store.url, "AIRFLOW_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    with serve(uvicorn, environment, "/static/vega.js") as url:
        yield url


def test_five_thousand_runs_can_be_used_within_two_seconds(pages: str, browser: Browser, screenshots: Path) -> None:
    page = browser.new_page()
    began = time.monotonic()
    page.goto(pages, wait_until="commit")
    page.locator("#table tbody tr").nth(49).wait_for()
    assert time.monotonic() - began < SECONDS
    began = time.monotonic()
    page.get_by_label("Search").fill("2007 demo")
    page.get_by_text("of 5000 runs").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("51–100 of 120").wait_for()
    assert time.monotonic() - began < SECONDS
    page.screenshot(path=screenshots / "many.png")
    page.close()
