"""A real Airflow with runs of the demo in it, and a real browser that is logged in to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_pages import PageViewer, RunningAirflow
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAirflow]:
    """``make demo`` to its end, still up."""
    state = tmp_path_factory.mktemp("browser")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARCLF", "KAGGLE"))}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "carclf_airflow.local", "demo"], text=True, stdout=subprocess.PIPE,
        env=environment | {"CARCLF_LOCAL_FOLDER": str(state), "CARCLF_CACHE": str(state / "cache"), "CARCLF_PORT": "0"})
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("UI "):
                break
        assert lines and lines[-1].startswith("UI "), "".join(lines)
        home = state / "demo"
        password = json.loads((home / "airflow" / "passwords.json").read_text())["admin"]
        running = RunningAirflow(lines[-1].split()[1], password, home / "store-demo", "")
        runs = running.call("GET", "dags/car_retrain/dagRuns")["dag_runs"]
        running.run = runs[0]["dag_run_id"]  # type: ignore[index]
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="session")
def training(airflow: RunningAirflow) -> str:
    """Another run, of another seed, that has just begun when the first test asks for it."""
    return airflow.trigger(seed=3, **{"fine_tune.epochs": 40, "fine_tune.patience": 40})


@pytest.fixture(scope="session")
def second(airflow: RunningAirflow, training: str) -> str:
    """The same run, once it has ended."""
    assert airflow.wait(training) == "success"
    return training


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def login(airflow: RunningAirflow, browser: Browser) -> dict[str, object]:
    """What a browser keeps after the login form was filled in."""
    page = browser.new_page()
    page.goto(airflow.url)
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", airflow.password)
    page.click("button[type=submit]")
    page.get_by_text("Car classifier").first.wait_for()
    return dict(page.context.storage_state())


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of what was tested are kept."""
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
    found = PageViewer(context, airflow)
    yield found
    context.close()
    assert found.wrong == []
