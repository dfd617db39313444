"""Faults of a proxy, of AWS's configuration and of the clock: the error names what has to be fixed."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from carclf.errors import CarclfError, ConfigError, ServiceError
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import open_store

S3_ERROR = "<Error><Code>{code}</Code><Message>rejected</Message></Error>"


class Server(ThreadingHTTPServer):
    """Responds to every request with this status and body."""

    status = 407
    body = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_CONNECT = do_GET  # noqa: N815 (http.server's names)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def environment(no_kaggle_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def read_kaggle(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", f"{scheme}://kaggle.invalid")
    KaggleClient("cars", max_attempts=1).list_files()


def read_s3(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://s3.invalid")
    open_store("s3://bucket").read("key")


@pytest.mark.parametrize("read", [read_kaggle, read_s3])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", [
    "http://127.0.0.1:9", "REJECTS", "http://127.0.0.1:99999", "http://ada:pass/word@127.0.0.1:9",
    "socks5://127.0.0.1:9", "http://",
])  # fmt: skip
def test_a_fault_of_the_proxy_names_its_variable(
    read: Callable[..., None], scheme: str, proxy: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{scheme}_proxy".upper()
    monkeypatch.setenv(name, server.url if proxy == "REJECTS" else proxy)
    with pytest.raises(CarclfError, match=name) as caught:
        read(scheme, monkeypatch)
    assert type(caught.value) is (ServiceError if proxy == "http://127.0.0.1:9" else ConfigError)
    assert "ENDPOINT" not in str(caught.value) and "ada" not in str(caught.value)
    assert ("407" in str(caught.value)) == (proxy == "REJECTS")


def test_a_missing_file_of_certificates_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing.pem")
    with pytest.raises(ConfigError, match=r"REQUESTS_CA_BUNDLE, /missing\.pem"):
        read_kaggle("https", monkeypatch)


@pytest.mark.parametrize("content", [b"[default\nregion = eu-central-1\n", b"\xff\xfe[default]"])
@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_malformed_aws_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: bytes
) -> None:
    (tmp_path / "aws").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "aws"))
    with pytest.raises(ConfigError, match=str(tmp_path / "aws")):
        read_s3("http", monkeypatch)


@pytest.mark.parametrize("name", ["AWS_DEFAULTS_MODE", "AWS_REQUEST_CHECKSUM_CALCULATION"])
def test_an_invalid_aws_variable_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "often")
    with pytest.raises(ConfigError, match="often"):
        read_s3("http", monkeypatch)


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "RequestExpired"])
def test_a_wrong_clock_is_blamed_and_not_the_credentials(
    server: Server, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    server.status, server.body = 403, S3_ERROR.format(code=code).encode()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with pytest.raises(ConfigError, match=r"clock") as caught:
        open_store("s3://bucket").read("key")
    assert "credentials" not in str(caught.value)
