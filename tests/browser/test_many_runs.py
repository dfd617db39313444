"""The list of 5,000 runs in a browser, without Airflow's login."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from benchmarks.runs_page import serve_pages, write_run_records
from carclf.runs.index import rebuild_index
from carclf.services.storage import init_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NUM_RUNS = 5000


@pytest.fixture(scope="module")
def pages_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("many")
    store = init_store(folder / "store")
    write_run_records(store, NUM_RUNS)
    rebuild_index(store)
    with serve_pages(store.url, folder) as url:
        yield url


def test_five_thousand_runs_are_listed_and_filtered(pages_url: str, browser: Browser, screenshots: Path) -> None:
    page = browser.new_page()
    page.goto(pages_url)
    page.locator("#runs-table tbody tr").nth(49).wait_for()
    page.get_by_label("Search").fill("2007 demo")
    page.get_by_text("of 5000 runs").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("51\u2013100 of 120").wait_for()
    page.screenshot(path=screenshots / "many.png")
    page.close()
