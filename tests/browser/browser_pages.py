"""A running Airflow, and a browser's page in it."""

import time
from dataclasses import dataclass
from pathlib import Path

import requests
from playwright.sync_api import BrowserContext, ConsoleMessage, FrameLocator, Page

SECONDS = 300  # that a run of the demo may take on a busy machine


@dataclass
class RunningAirflow:
    """Airflow's address, its admin's password, the store, and the run that the demo made."""

    url: str
    password: str
    store: Path
    run: str

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """What Airflow's REST API answers."""
        admin = {"username": "admin", "password": self.password}
        login = requests.post(f"{self.url}/auth/token", json=admin, timeout=60)
        headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
        answer = requests.request(method, f"{self.url}/api/v2/{path}", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return dict(answer.json())

    def trigger(self, **conf: object) -> str:
        """Begin another run; its id in Airflow."""
        body = {"logical_date": None, "conf": conf}
        return str(self.call("POST", "dags/car_retrain/dagRuns", body)["dag_run_id"])

    def wait(self, run: str) -> str:
        """Until a run has ended; how."""
        limit = time.monotonic() + SECONDS
        while time.monotonic() < limit:
            state = str(self.call("GET", f"dags/car_retrain/dagRuns/{run}")["state"])
            if state in ("success", "failed"):
                return state
            time.sleep(1)
        raise TimeoutError(f"{run} did not end in {SECONDS} s")


class PageViewer:
    """A page in a browser that is logged in; what it refuses or stumbles on is kept."""

    def __init__(self, context: BrowserContext, airflow: RunningAirflow) -> None:
        self.context, self.airflow = context, airflow
        self.page: Page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "carclf: Cannot" in message.text:
            self.wrong.append(message.text)

    def open(self, path: str, title: str) -> FrameLocator:
        """A page of Airflow's UI, and in it ours by its frame's title."""
        self.page.goto(self.airflow.url + path)
        frame = self.page.frame_locator(f"iframe[title='{title}']")
        frame.locator("h1").wait_for()
        return frame

    def runs(self) -> FrameLocator:
        """The page "Car classifier" with its list."""
        frame = self.open("/plugin/car-classifier", "Car classifier")
        frame.locator("#table tbody tr").first.wait_for()
        return frame

    def report(self, run: str) -> FrameLocator:
        """The tab of a DAG run."""
        return self.open(f"/dags/car_retrain/runs/{run}/plugin/car-classifier-report", "Report")
