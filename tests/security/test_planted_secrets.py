"""Secrets are planted in every source that a process reads; runs fail, and everything that they write is searched."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from airflow_process import airflow_environment, printed_json

from carclf.services.storage import init_store

pytestmark = pytest.mark.integration

CREDENTIAL_FOLDERS = (".kaggle", ".aws", "kaggle-config")
VARIABLES = {
    "KAGGLE_USERNAME": "ada",
    "KAGGLE_KEY": "planted-kaggle-key",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret",
    "AWS_SESSION_TOKEN": "planted-aws-session",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a,authorization=planted-otel-header",
    "CARCLF_NOTIFICATION_URL": "https://hooks.example/planted-webhook",
    "POSTGRES_DSN": "postgresql://ada:planted-dsn-password@db/airflow",
    "HTTPS_PROXY": "ada:planted-p@ss/word@proxy:3128",
}
FILES = {
    "kaggle-config/kaggle.json": '{"username":"ada","key":"planted-json-key"}',
    ".kaggle/kaggle.json": '{"username":"ada","key":"planted-home-key"}',
    ".kaggle/credentials.json": '{"refresh_token": "planted-refresh-token", "access_token": "planted-login-token"}',
    ".aws/credentials": "[default]\naws_access_key_id = test\naws_secret_access_key = planted-aws-file\n",
    ".netrc": "machine kaggle.com login ada password planted-netrc-password\n",
}
BASIC = base64.b64encode(b"ada:planted-kaggle-key").decode()
UNPLANTED = [  # secrets in no variable or file
    "https://storage/a.zip?X-Amz-Signature=planted-signature&X-Goog-Credential=planted-id&upload_id=planted-upload",
    "Bearer planted-bearer-token", "AKIAPLANTEDPLANTED12",
]  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A home folder with planted secrets, and the environment of a process."""

    home: Path
    environment: dict[str, str]

    def carclf(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "carclf", *arguments, **variables)

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: text for name, text in (self.environment | variables).items() if text}
        return subprocess.run([sys.executable, *arguments], env=environment, cwd=self.home, capture_output=True,
                              text=True, errors="replace", check=False)

    def require_no_secret(self, *texts: str) -> None:
        """Search the texts, and the names and contents of all files except those in which secrets were planted."""
        paths = [path for path in self.home.rglob("*") if path.relative_to(self.home).parts[0] not in
                 (*CREDENTIAL_FOLDERS, ".netrc")]  # fmt: skip
        contents = {str(path): path.read_text(errors="replace") for path in paths if path.is_file()}
        for name, text in [*contents.items(), *(("output", text) for text in texts)]:
            assert "planted" not in f"{name} {text}".lower() and BASIC not in text, (name, text[-2000:])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "NO_PROXY": "127.0.0.1",
        "CARCLF_STORE": init_store(tmp_path / "store").url, "CARCLF_CACHE": str(tmp_path / "cache"),
        "CARCLF_RECIPE": "demo",
        "KAGGLE_CONFIG_DIR": str(tmp_path / "kaggle-config"), "CARCLF_KAGGLE_ENDPOINT": "http://127.0.0.1:9",
    }
    return Machine(tmp_path, environment | VARIABLES)


@pytest.fixture
def talkative_server() -> Iterator[str]:
    """A server that repeats the request's headers and every planted secret in the message of its error."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            secrets = [*VARIABLES.values(), *FILES.values(), *UNPLANTED]
            body = json.dumps({"code": 400, "message": f"{self.headers} {secrets}"}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_secret_of_any_source_is_written_by_a_failing_run(machine: Machine, talkative_server: str) -> None:
    result = machine.home / "result.json"
    done = machine.carclf("download", "--run", "r", "--result", str(result), CARCLF_KAGGLE_ENDPOINT=talkative_server)
    assert done.returncode == 78
    assert done.stderr.count("***") >= len(VARIABLES) + len(FILES)
    assert "***" in (machine.home / "store/runs/r.json").read_text()
    shown = machine.carclf("runs", "show", "r")
    machine.require_no_secret(done.stdout, done.stderr, shown.stdout, shown.stderr)


@pytest.mark.parametrize("variables", [
    {"KAGGLE_API_TOKEN": "planted-token\n"},
    {"KAGGLE_API_TOKEN": "planted-token\nplanted-second-line"},
    {"KAGGLE_KEY": "", "KAGGLE_CONFIG_DIR": "kaggle-config/damaged"},
    {"HTTP_PROXY": "http://ada:planted-proxy-password@127.0.0.1:99999", "NO_PROXY": ""},
    {"CARCLF_SETTINGS": "model.weights=https://ada:planted-weights-password@host/w.h5"},
    {"CARCLF_SETTINGS": "download.extra_data=https://host/?X-Amz-Signature=planted-signature"},
])  # fmt: skip
def test_an_invalid_credential_proxy_or_url_is_not_written(
    machine: Machine, talkative_server: str, variables: dict[str, str]
) -> None:
    (machine.home / "kaggle-config/damaged").mkdir()
    (machine.home / "kaggle-config/damaged/kaggle.json").write_bytes(b'{"username":"ada","key":"planted-key\xff\xfe"}')
    done = machine.carclf("download", "--run", "r", CARCLF_KAGGLE_ENDPOINT=talkative_server, **variables)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    machine.require_no_secret(done.stdout, done.stderr)


def test_a_traceback_and_the_output_of_libraries_are_redacted(machine: Machine) -> None:
    code = """
import logging, os, sys
from carclf.cli import app

def crash() -> None:
    for text in map(os.environ.get, ("KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY")):
        print(text, {"key": text})
        sys.stderr.writelines([text])
        logging.getLogger("library").warning("%s", text)
    raise ValueError(os.environ["AWS_SESSION_TOKEN"])

app.app.command("crash")(crash)
sys.argv = ["carclf", "crash"]
app.main()
"""
    done = machine.python("-c", code)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: ***\n")
    machine.require_no_secret(done.stdout, done.stderr)


def test_no_secret_reaches_airflow(machine: Machine, talkative_server: str) -> None:
    code = """
        import json, sys
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowFailException
        from carclf_airflow import stage_process
        texts = []
        stage_process.log.addFilter(lambda record: texts.append(record.getMessage()) or False)
        run = N(dag_id="car_retrain", run_id="r", triggering_user_name="ada")
        context = {"dag_run": run, "params": {"recipe": "demo"},
                   "ti": N(xcom_push=lambda key, value: texts.append(json.dumps({key: value})))}
        try:
            stage_process.run_stage("download", context)
        except AirflowFailException as error:
            texts.append(str(error))
        child = "import os; os.write(2, os.environ['KAGGLE_KEY'].encode())"
        stage_process.run_child([sys.executable, "-c", child, "https://ada:planted-password@host"],
                                stage_process.child_environment("download"))
        print(json.dumps(texts))
    """
    airflow = airflow_environment(machine.home) | machine.environment | {"CARCLF_KAGGLE_ENDPOINT": talkative_server}
    texts = printed_json(code, airflow)
    assert sum("***" in text for text in texts) >= 4
    machine.require_no_secret(*texts)
