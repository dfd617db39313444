"""Checkpoints of the Hugging Face Hub, from a loopback server that responds as the Hub does."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from safetensors_bytes import pack_safetensors

from carclf.config import load_config
from carclf.errors import ConfigError, ServiceError
from carclf.services.huggingface import download
from carclf.training.weights import read_license, weights_file, weights_identity

MODEL = "hf://timm/convnext_tiny.in12k"
PREFIX = "/timm/convnext_tiny.in12k/resolve/main/"
CONFIG = {"architecture": "convnext_tiny", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


class Hub(ThreadingHTTPServer):
    """Redirects requests for the weights to ``storage``, and states their SHA-256."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.storage = f"{self.url}/storage"
        self.weights = pack_safetensors({})
        self.sha256 = hashlib.sha256(self.weights).hexdigest()
        self.files = {f"{PREFIX}config.json": json.dumps(CONFIG).encode(),
                      f"{PREFIX}README.md": b"---\ntags:\n- timm\nlicense: CC-BY-NC-4.0\n---\n# Model\nlicense: none\n"}
        self.requests: list[str] = []
        self.faults = 0  # responses with status 503 before the next useful one


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.faults:
            self.server.faults -= 1
            self._send(503, b"")
        elif self.path == f"{PREFIX}model.safetensors":
            self._send(302, b"", {"Location": self.server.storage, "X-Linked-Etag": f'"{self.server.sha256}"'})
        elif self.path == "/storage":
            self._send(200, self.server.weights)
        elif self.path in self.server.files:
            self._send(200, self.server.files[self.path])
        elif self.path.startswith(PREFIX):
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "RETRIES", download.RETRIES.new(backoff_factor=0))
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_model_is_downloaded_once_and_identified_by_content_mean_and_deviation(hub: Hub) -> None:
    path = weights_file(MODEL)
    assert path.name == "model.safetensors" and path.read_bytes() == hub.weights
    inode = path.stat().st_ino
    assert weights_identity(MODEL) == f"sha256:{hub.sha256} mean=(0.1, 0.2, 0.3) std=(0.4, 0.5, 0.6)"
    assert path.stat().st_ino == inode  # not written again
    assert read_license(MODEL) == "cc-by-nc-4.0"


def test_the_license_in_the_configuration_counts_first(hub: Hub) -> None:
    config = CONFIG | {"pretrained_cfg": {**CONFIG["pretrained_cfg"], "license": "Apache-2.0"}}
    hub.files[f"{PREFIX}config.json"] = json.dumps(config).encode()
    assert read_license(MODEL) == "apache-2.0"


def test_a_license_that_nobody_states_is_unknown(hub: Hub) -> None:
    hub.files[f"{PREFIX}README.md"] = b"---\ntags: timm\n---\nlicense: mit\n"
    assert read_license(MODEL) == "unknown"
    assert read_license("imagenet") == ""


def test_transient_faults_are_repeated_and_lasting_ones_raise_service_error(hub: Hub) -> None:
    hub.faults = 2
    assert weights_file(MODEL).is_file()
    hub.faults = 100
    with pytest.raises(ServiceError, match=r"config\.json.*503"):
        weights_file(MODEL)


def test_a_download_with_another_checksum_raises_service_error_and_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.weights = b"damaged"
    with pytest.raises(ServiceError, match="SHA-256"):
        weights_file(MODEL)
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))


def test_a_repository_without_safetensors_raises_config_error(hub: Hub) -> None:
    hub.files["/timm/x/resolve/v1/config.json"] = b"{}"
    for weights, message in (("hf://timm/x@v1", r"401.*private"), ("hf://timm/other", "401")):
        with pytest.raises(ConfigError, match=message):
            weights_file(weights)
    del hub.files[f"{PREFIX}config.json"]
    with pytest.raises(ConfigError, match=r"no config\.json"):
        weights_file(MODEL)


def test_a_redirect_may_not_lead_into_a_private_network(hub: Hub) -> None:
    hub.storage = "http://127.0.0.2:9/storage"
    with pytest.raises(ConfigError, match=r"127\.0\.0\.2:9.*HF_ENDPOINT"):
        weights_file(MODEL)


def test_an_unreachable_or_invalid_endpoint_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="Try again later"):
        weights_file(MODEL)
    monkeypatch.setenv("HF_ENDPOINT", "huggingface")
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        weights_file(MODEL)


@pytest.mark.parametrize("weights", ["hf://timm", "hf://../x", "hf://timm/x/y", "hf://timm/x@../main", "hf://timm/x@"])
def test_an_invalid_repository_is_rejected_as_a_setting(weights: str) -> None:
    with pytest.raises(ConfigError, match="hf://timm/"):
        load_config("demo", {"model.backbone": "ConvNeXtTiny", "model.weights": weights})


def test_a_checkpoint_in_s3_needs_its_configuration(aws: None, tmp_path: Path) -> None:
    import boto3

    from carclf.services.storage import open_store

    boto3.client("s3").create_bucket(Bucket="weights")
    for name, content in (("m.safetensors", pack_safetensors({})), ("config.json", json.dumps(CONFIG).encode())):
        (tmp_path / name).write_bytes(content)
    store = open_store("s3://weights/nets")
    store.upload(tmp_path / "m.safetensors", "m.safetensors")
    with pytest.raises(ConfigError, match=r"config\.json"):
        weights_identity("s3://weights/nets/m.safetensors")
    store.upload(tmp_path / "config.json", "config.json")
    local = weights_identity(str(shutil.copy(tmp_path / "m.safetensors", tmp_path / "copy.safetensors")))
    assert weights_identity("s3://weights/nets/m.safetensors") == local
