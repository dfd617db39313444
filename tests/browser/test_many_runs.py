"""The list of 5,000 runs in a browser, without Airflow's login."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from browser_pages import TIMEOUT_MS
from playwright.sync_api import Browser

from benchmarks.runs_page import write_run_records
from carclf.runs.index import rebuild_index
from carclf.services.storage import init_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NUM_RUNS = 5000


def test_five_thousand_runs_are_listed_and_filtered(
    serve: Callable[[str], AbstractContextManager[str]], tmp_path: Path, browser: Browser, screenshots: Path
) -> None:
    store = init_store(tmp_path / "store")
    write_run_records(store, NUM_RUNS)
    rebuild_index(store)
    with serve(store.url) as url:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url)
        page.locator("#runs-table tbody tr").nth(49).wait_for()
        page.get_by_label("Search").fill("2007 demo")
        page.get_by_text("of 5000 runs").wait_for()
        page.get_by_role("button", name="Next").click()
        page.get_by_text("51\u2013100 of 120").wait_for()
        page.screenshot(path=screenshots / "many.png")
        page.close()
