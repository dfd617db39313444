"""A running Airflow, and a page of a browser that is logged in to it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import BrowserContext, ConsoleMessage, FrameLocator, Page

RUN_TIMEOUT = 600  # seconds for a demo run on a busy machine
TIMEOUT_MS = 120_000  # for a page on a busy machine
RUNS_PLUGIN, REPORT_PLUGIN = "Car runs", "Report"  # titles of the frames


@dataclass
class RunningAirflow:
    """Airflow's URL, the password of the user admin, the store, and the id of the demo's DAG run."""

    url: str
    password: str
    store: Path
    run_id: str = ""

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Call Airflow's REST API and return its response."""
        admin = {"username": "admin", "password": self.password}
        login = requests.post(f"{self.url}/auth/token", json=admin, timeout=60)
        headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
        response = requests.request(method, f"{self.url}/api/v2/{path}", json=body, headers=headers, timeout=60)
        response.raise_for_status()
        return dict(response.json())

    def trigger(self, **conf: object) -> str:
        """Start a run and return its id."""
        body = {"logical_date": None, "conf": conf}
        return str(self.call("POST", "dags/car_retrain/dagRuns", body)["dag_run_id"])

    def wait(self, run_id: str) -> str:
        """Wait until a run has ended and return its state."""
        deadline = time.monotonic() + RUN_TIMEOUT
        while time.monotonic() < deadline:
            state = str(self.call("GET", f"dags/car_retrain/dagRuns/{run_id}")["state"])
            if state in ("success", "failed"):
                return state
            time.sleep(1)
        raise TimeoutError(f"{run_id} did not end within {RUN_TIMEOUT} s")


@contextmanager
def serve_pages(app: FastAPI, store_url: str) -> Iterator[str]:
    """Serve the pages of a store in a thread; yield the URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_STORE", store_url)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class PageViewer:
    """A browser page that collects script errors and violations of the content security policy."""

    def __init__(self, context: BrowserContext, airflow: RunningAirflow) -> None:
        self.airflow = airflow
        self.page: Page = context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._on_console_message)

    def _on_console_message(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "carclf: Cannot" in message.text:
            self.errors.append(message.text)

    def open_frame(self, path: str, title: str) -> FrameLocator:
        """Open a page of Airflow's UI and return its frame of this title."""
        self.page.goto(self.airflow.url + path)
        frame = self.page.frame_locator(f"iframe[title='{title}']")
        frame.locator("h1").wait_for()
        return frame

    def open_runs(self) -> FrameLocator:
        """Open the page with the list of runs."""
        frame = self.open_frame("/plugin/car-classifier", RUNS_PLUGIN)
        frame.locator("#runs-table tbody tr").first.wait_for()
        return frame

    def open_report(self, run_id: str) -> FrameLocator:
        """Open the Report tab of a DAG run."""
        return self.open_frame(f"/dags/car_retrain/runs/{run_id}/plugin/car-classifier-report", REPORT_PLUGIN)
