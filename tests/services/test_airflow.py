"""The request to announce a new champion, to a server that responds like Airflow."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from carclf.services.airflow import request_announcement

TOKEN = "planted-token"


class Server:
    """A server that keeps the requests, and responds to each with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[tuple[str, str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, self.headers["Authorization"], body))
                self.send_response(server.status)
                self.end_headers()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.http.serve_forever, daemon=True).start()
    monkeypatch.setenv("CARCLF_AIRFLOW_URL", running.url)
    monkeypatch.setenv("CARCLF_AIRFLOW_TOKEN", TOKEN)
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_run_of_car_promote_is_requested_with_the_token(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    request_announcement()
    assert server.requests == [("/api/v2/dags/car_promote/dagRuns", f"Bearer {TOKEN}", {"logical_date": None})]
    assert caplog.text == ""


def test_a_malformed_url_is_a_warning(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CARCLF_AIRFLOW_URL", "http://[")
    request_announcement()
    assert server.requests == []
    assert "not announced" in caplog.text
    assert "CARCLF_AIRFLOW_URL" in caplog.text


@pytest.mark.parametrize("name", ["CARCLF_AIRFLOW_URL", "CARCLF_AIRFLOW_TOKEN"])
def test_without_url_or_token_nothing_is_requested(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "")
    request_announcement()
    assert server.requests == []


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9"])
def test_a_failure_is_a_warning_that_names_the_fix_but_not_the_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    server.status = 401
    if url:
        monkeypatch.setenv("CARCLF_AIRFLOW_URL", url)
    with caplog.at_level(logging.WARNING):
        request_announcement()
    assert "CARCLF_AIRFLOW_TOKEN" in caplog.text and "car_promote" in caplog.text
    assert ("ConnectionError" if url else "HTTP status 401") in caplog.text
    assert TOKEN not in caplog.text
