"""Checkpoints of the Hugging Face Hub, from a loopback server that responds as the Hub does."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
from safetensors_bytes import pack_safetensors

from carclf.artifacts import remove_leftovers
from carclf.config import load_config
from carclf.errors import ConfigError, ServiceError
from carclf.services.huggingface import repository
from carclf.services.storage import open_store
from carclf.temporary import leftovers
from carclf.training.weights import starting_weights

MODEL = "hf://timm/convnext_tiny.in12k"
PREFIX = "/timm/convnext_tiny.in12k/resolve/"
CONFIG = {"architecture": "convnext_tiny", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


class Hub(ThreadingHTTPServer):
    """Redirects requests for the weights to ``storage``, and states their SHA-256 and the commit.

    ``commits`` has the files of each commit by name; ``main`` is the last commit.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.storage = f"{self.url}/storage"
        self.stored: dict[str, bytes] = {}  # what the storage returns, by SHA-256
        self.commits: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.faults = 0  # responses with status 503 before the next useful one
        self.add_commit({
            "config.json": json.dumps(CONFIG).encode(), "model.safetensors": pack_safetensors({}),
            "README.md": b"---\ntags:\n- timm\nlicense: CC-BY-NC-4.0\n---\n# Model\nlicense: none\n",
        })

    @property
    def files(self) -> dict[str, bytes]:
        """The files of ``main``."""
        return list(self.commits.values())[-1]

    @property
    def sha256(self) -> str:
        """The stated SHA-256 of the weights in ``main``."""
        return hashlib.sha256(self.files["model.safetensors"]).hexdigest()

    def add_commit(self, files: dict[str, bytes]) -> None:
        """Move ``main`` to a new commit with these files."""
        self.commits[f"{len(self.commits) + 1:040x}"] = files
        weights = files["model.safetensors"]
        self.stored[hashlib.sha256(weights).hexdigest()] = weights


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        hub.requests.append(self.path)
        if hub.faults:
            hub.faults -= 1
            self._send(503, b"")
        elif self.path.startswith("/storage/"):
            self._send(200, hub.stored[self.path.removeprefix("/storage/")])
        elif self.path.startswith(PREFIX):
            self._send_file(*self.path.removeprefix(PREFIX).split("/"))
        else:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})

    def _send_file(self, revision: str, name: str) -> None:
        commit = list(self.server.commits)[-1] if revision == "main" else revision
        headers = {"X-Repo-Commit": commit}
        if (content := self.server.commits[commit].get(name)) is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif name == "model.safetensors":
            sha256 = hashlib.sha256(content).hexdigest()
            location = {"Location": f"{self.server.storage}/{sha256}", "X-Linked-Etag": f'"{sha256}"'}
            self._send(302, b"", headers | location)
        else:
            self._send(200, content, headers)

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
    monkeypatch.setattr(repository, "RETRIES", repository.RETRIES.new(backoff_factor=0))
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_model_is_downloaded_once_and_identified_by_content_mean_and_deviation(hub: Hub) -> None:
    weights = starting_weights(MODEL)
    assert weights.path and weights.path.name == "model.safetensors"
    assert weights.path.read_bytes() == hub.files["model.safetensors"]
    written = weights.path.stat().st_mtime_ns
    assert starting_weights(MODEL) == weights
    assert weights.path.stat().st_mtime_ns == written  # not written again
    assert weights.identity == f"sha256:{hub.sha256} mean=(0.1, 0.2, 0.3) std=(0.4, 0.5, 0.6)"
    assert weights.license == "cc-by-nc-4.0"


def test_all_files_are_of_the_commit_of_the_first_response(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch moves after each response."""
    sha256 = hub.sha256
    send_file = Handler._send_file

    def send_and_move(handler: Handler, revision: str, name: str) -> None:
        send_file(handler, revision, name)
        hub.add_commit({"config.json": b"{}", "model.safetensors": b"new", "README.md": b"---\nlicense: mit\n---\n"})

    monkeypatch.setattr(Handler, "_send_file", send_and_move)
    weights = starting_weights(MODEL)
    assert (weights.sha256, weights.license) == (sha256, "cc-by-nc-4.0")
    assert hub.requests == [f"{PREFIX}{path}" for path in (
        "main/config.json", f"{1:040x}/README.md", f"{1:040x}/model.safetensors")] + [f"/storage/{sha256}"]


def test_a_new_commit_gives_another_file_and_keeps_the_one_in_use(hub: Hub) -> None:
    before = starting_weights(MODEL)
    hub.add_commit(hub.files | {"model.safetensors": b"new"})
    after = starting_weights(MODEL)
    assert before.path and after.path and before.path.read_bytes() != after.path.read_bytes() == b"new"


def test_a_deleted_page_states_no_license(hub: Hub) -> None:
    starting_weights(MODEL)
    del hub.files["README.md"]
    assert starting_weights(MODEL).license == "unknown"


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_a_large_text_file_raises_config_error_with_its_name(name: str, hub: Hub) -> None:
    hub.files[name] = bytes(repository.MAX_TEXT_BYTES + 1)
    with pytest.raises(ConfigError, match=f"{name}.*4,000,000 bytes"):
        starting_weights(MODEL)


def test_a_server_that_does_not_state_the_commit_raises_config_error(hub: Hub) -> None:
    hub.commits = {"v1": hub.files}
    with pytest.raises(ConfigError, match=r"X-Repo-Commit.*HF_ENDPOINT"):
        starting_weights(MODEL)


def test_the_download_of_a_killed_process_is_removed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def copy_folder(response: object, size: int) -> Iterator[bytes]:
        for folder in leftovers(tmp_path / "cache" / "weights"):
            copies.append(shutil.copytree(folder, folder.with_name(f"{folder.name}-killed")))
            os.utime(copies[-1], (0, 0))
        return iter_content(response, size)

    iter_content = requests.Response.iter_content
    monkeypatch.setattr(requests.Response, "iter_content", copy_folder)
    starting_weights(MODEL)
    assert len(copies) == 1
    assert remove_leftovers(open_store(str(tmp_path / "store"))) == 1
    assert not copies[0].exists()


def test_the_license_in_the_configuration_counts_first(hub: Hub) -> None:
    config = CONFIG | {"pretrained_cfg": {**CONFIG["pretrained_cfg"], "license": "Apache-2.0"}}
    hub.files["config.json"] = json.dumps(config).encode()
    assert starting_weights(MODEL).license == "apache-2.0"


def test_a_license_that_nobody_states_is_unknown(hub: Hub) -> None:
    hub.files["README.md"] = b"---\ntags: timm\n---\nlicense: mit\n"
    assert starting_weights(MODEL).license == "unknown"
    assert starting_weights("imagenet").license == ""


def test_transient_faults_are_repeated_and_lasting_ones_raise_service_error(hub: Hub) -> None:
    hub.faults = 2
    assert starting_weights(MODEL).path.is_file()
    hub.faults = 100
    with pytest.raises(ServiceError, match=r"config\.json.*503"):
        starting_weights(MODEL)


def test_a_download_with_another_checksum_raises_service_error_and_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.stored[hub.sha256] = b"damaged"
    with pytest.raises(ServiceError, match="SHA-256"):
        starting_weights(MODEL)
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))


def test_a_repository_without_safetensors_raises_config_error(hub: Hub) -> None:
    for weights, message in (("hf://timm/x@v1", r"401.*private"), ("hf://timm/other", "401")):
        with pytest.raises(ConfigError, match=message):
            starting_weights(weights)
    del hub.files["model.safetensors"]
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        starting_weights(MODEL)
    del hub.files["config.json"]
    with pytest.raises(ConfigError, match=rf"config\.json of {MODEL} is missing"):
        starting_weights(MODEL)


def test_a_redirect_may_not_lead_into_a_private_network(hub: Hub) -> None:
    hub.storage = "http://127.0.0.2:9/storage"
    with pytest.raises(ConfigError, match=r"127\.0\.0\.2:9.*HF_ENDPOINT"):
        starting_weights(MODEL)


def test_an_unreachable_or_invalid_endpoint_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="Try again later"):
        starting_weights(MODEL)
    monkeypatch.setenv("HF_ENDPOINT", "huggingface")
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        starting_weights(MODEL)


@pytest.mark.parametrize("weights", ["hf://timm", "hf://../x", "hf://timm/x/y", "hf://timm/x@../main", "hf://timm/x@"])
def test_an_invalid_repository_is_rejected_as_a_setting(weights: str) -> None:
    with pytest.raises(ConfigError, match="hf://timm/"):
        load_config("demo", {"model.backbone": "ConvNeXtTiny", "model.weights": weights})


def test_a_checkpoint_in_s3_needs_its_configuration(aws: None, tmp_path: Path) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="weights")
    for name, content in (("m.safetensors", pack_safetensors({})), ("config.json", json.dumps(CONFIG).encode())):
        (tmp_path / name).write_bytes(content)
    store = open_store("s3://weights/nets")
    store.upload(tmp_path / "m.safetensors", "m.safetensors")
    with pytest.raises(ConfigError, match=r"config\.json"):
        starting_weights("s3://weights/nets/m.safetensors")
    store.upload(tmp_path / "config.json", "config.json")
    local = starting_weights(str(shutil.copy(tmp_path / "m.safetensors", tmp_path / "copy.safetensors")))
    assert starting_weights("s3://weights/nets/m.safetensors").identity == local.identity
