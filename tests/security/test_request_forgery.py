"""URLs that would make a worker send requests into its own network (server-side request forgery)."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from submissions import submit_file

from carclf.dataset.extra_data import gather_extra_data
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError
from carclf.public_addresses import require_public_address
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import open_store
from carclf.training.weights import starting_weights

KAGGLE = "https://www.kaggle.com"
VARIABLE = "CARCLF_KAGGLE_ENDPOINT"
PRIVATE = [
    "https://127.0.0.1/x", "https://localhost/x", "https://[::1]/x", "https://169.254.169.254/latest/meta-data",
    "https://10.0.0.5/x", "https://192.168.1.1/x", "https://172.16.0.1/x", "https://[fd00::1]/x", "https://0.0.0.0/x",
    "https://[::ffff:169.254.169.254]/x", "https://2130706433/x", "https://100.64.0.1/x", "https://[fe80::1%25eth0]/x",
    "http://93.184.216.34/x", "http://storage.googleapis.com/x", "https://127.0.0.1:443@127.0.0.1/x",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_a_redirect_of_kaggle_may_not_lead_to_a_private_address(url: str) -> None:
    with pytest.raises(ConfigError, match=VARIABLE):
        require_public_address(url, KAGGLE, VARIABLE)


@pytest.mark.parametrize(("url", "endpoint"), [
    ("https://storage.googleapis.com/x?signature=1", KAGGLE), ("https://93.184.216.34/x", KAGGLE),
    ("https://www.kaggle.com/api/v1/x", KAGGLE), ("http://localhost:8000/x", "HTTP://LocalHost:8000"),
    ("http://127.0.0.1:8000/download/x", "http://127.0.0.1:8000"),
])
def test_public_addresses_and_the_endpoint_itself_are_allowed(url: str, endpoint: str) -> None:
    require_public_address(url, endpoint, VARIABLE)


def test_an_address_that_a_name_resolves_to_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: resolved)
    with pytest.raises(ConfigError, match=r"internal\.example"):
        require_public_address("https://internal.example/x", KAGGLE, VARIABLE)
    require_public_address("https://storage.googleapis.com/x", KAGGLE, VARIABLE)  # private in some networks


class Inner(HTTPServer):
    """A service in the worker's network that counts its requests."""

    num_requests = 0


@pytest.fixture
def inner() -> Iterator[Inner]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.num_requests += 1
            self.send_response(200)
            self.end_headers()

        def __getattr__(self, name: str) -> Any:
            return self.do_GET  # for every method

    with Inner(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_client_does_not_follow_urls_into_its_network(
    kaggle_server: DemoServer, inner: Inner, tmp_path: Path
) -> None:
    client = KaggleClient("demo-cars", max_attempts=1)
    kaggle_server.url = f"http://127.0.0.1:{inner.server_address[1]}"  # of downloads and uploads
    (tmp_path / "submission.csv").write_text("Id,Category\n")
    calls: list[Any] = [
        lambda: client.download(tmp_path / "new", timeout_seconds=9),
        lambda: submit_file(client, tmp_path / "submission.csv", "f"),
        client.check_access,
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=urlsplit(kaggle_server.url).netloc):
            call()
    assert inner.num_requests == 0
    assert kaggle_server.submissions == []


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "file", "gopher"])
def test_a_setting_cannot_name_a_url_of_another_protocol(scheme: str) -> None:
    url = f"{scheme}://169.254.169.254/latest"
    for read in (open_store, starting_weights, lambda source: gather_extra_data(source).__enter__()):
        with pytest.raises(ConfigError, match="s3://"):
            read(url)
