"""An Airflow with demo runs, and a browser that is logged in to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from browser_pages import TIMEOUT_MS, PageViewer, RunningAirflow, serve_pages
from playwright.sync_api import Browser, sync_playwright

from benchmarks.runs_page import create_pages

CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAirflow]:
    """Run ``make demo`` and keep Airflow running after the demo's run has ended."""
    state = tmp_path_factory.mktemp("browser")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    folders = {"CARCLF_LOCAL_FOLDER": str(state), "CARCLF_CACHE": str(state / "cache"), "CARCLF_PORT": "0"}
    command = [sys.executable, "-u", "-m", "carclf_airflow.local", "demo"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=environment | folders)
    try:
        url = _wait_for_url(process)
        home = state / "demo"
        password = json.loads((home / "airflow" / "passwords.json").read_text())["admin"]
        running = RunningAirflow(url, password, home / "store-demo")
        runs = running.call("GET", "dags/car_retrain/dagRuns")["dag_runs"]
        running.run_id = runs[0]["dag_run_id"]  # type: ignore[index]
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def _wait_for_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("UI "):
            return line.split()[1]
    pytest.fail("".join(lines))


@pytest.fixture(scope="session")
def active_run_id(airflow: RunningAirflow) -> str:
    """A second run with another seed, which has just started when the first test requests it.

    On a fast machine an epoch takes less than a second, and the page asks for new points every three seconds.
    """
    return airflow.trigger(seed=3, **{"fine_tune.epochs": 40})


@pytest.fixture(scope="session")
def finished_run_id(airflow: RunningAirflow, active_run_id: str) -> str:
    """The second run after it has ended."""
    assert airflow.wait(active_run_id) == "success"
    return active_run_id


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], AbstractContextManager[str]]]:
    """A function that serves the pages of a store's URL without Airflow's login."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        yield partial(serve_pages, create_pages())


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def login(airflow: RunningAirflow, browser: Browser) -> dict[str, object]:
    """The cookies of a browser after the login form."""
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(airflow.url)
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", airflow.password)
    page.click("button[type=submit]")
    page.get_by_text("Car runs").first.wait_for()
    return dict(page.context.storage_state())


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for screenshots: SCREENSHOTS, or a temporary folder."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.getbasetemp() / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\nScreenshots are in {folder}")
    return folder


@pytest.fixture
def viewer(
    browser: Browser, login: dict[str, object], airflow: RunningAirflow, request: pytest.FixtureRequest
) -> Iterator[PageViewer]:
    options = getattr(request, "param", {})
    context = browser.new_context(storage_state=login, **{"viewport": {"width": 1400, "height": 950}} | options)
    page_viewer = PageViewer(context, airflow)
    yield page_viewer
    context.close()
    assert page_viewer.errors == []
