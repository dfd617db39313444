"""The list of runs in a browser, without Airflow's login."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from browser_pages import TIMEOUT_MS
from playwright.sync_api import Browser

from benchmarks.runs_page import write_run_records
from carclf.config import load_config
from carclf.runs.index import rebuild_index
from carclf.runs.run import Run
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


def test_a_new_run_appears_without_losing_the_selection_or_the_focus(
    serve: Callable[[str], AbstractContextManager[str]], tmp_path: Path, browser: Browser
) -> None:
    store = init_store(tmp_path / "store")
    write_run_records(store, 3)
    rebuild_index(store)
    with serve(store.url) as url:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url)
        page.locator("#runs-table tbody tr").nth(2).wait_for()
        box = page.locator("#runs-table tbody input").first
        box.check()
        selected = box.get_attribute("data-run")
        Run.start_or_resume("new", store, "demo", load_config("demo"))
        page.get_by_role("link", name="new", exact=True).wait_for()
        assert page.locator("#status").text_content() == "4 runs"
        assert page.locator("#runs-table tbody input:checked").get_attribute("data-run") == selected
        assert page.evaluate("document.activeElement.dataset.run") == selected
        page.close()
