"""The exit status and the output of commands in a process of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carclf.services.storage import init_store, open_store

pytestmark = pytest.mark.integration


def carclf(*arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "CARCLF_CACHE": str(home / "cache")} | variables
    command = [sys.executable, "-m", "carclf", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_missing_store_ends_with_one_line_and_status_66(tmp_path: Path) -> None:
    process = carclf("runs", "list", "--store", str(tmp_path / "mistyped"), home=tmp_path)
    assert (process.returncode, process.stdout) == (66, "")
    assert str(tmp_path / "mistyped") in process.stderr and process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["download", "--recipe", "nope"], 78, "'nope'"),
        (["download", "--set", "fine_tune.epoch=1"], 78, "'fine_tune.epoch'"),
        (["download", "--set", "epochs"], 78, "'epochs'"),
        (["download", "--run", "../x"], 78, "Invalid run id '../x'"),
        (["download"], 78, "kaggle.json"),
        (["split"], 66, "There is no run 'r' in"),
    ],
)
def test_an_error_ends_with_one_line_and_its_status(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    run = [] if "--run" in arguments else ["--run", "r"]
    process = carclf(*arguments, *run, "--store", init_store(tmp_path / "store").url, home=tmp_path)
    assert (process.returncode, process.stdout) == (status, "")
    assert message in process.stderr and "Traceback" not in process.stderr


def test_a_store_that_cannot_be_written_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = carclf("store", "init", "--store", str(tmp_path / "file" / "store"), home=tmp_path)
    assert process.returncode == 78 and f"{tmp_path}/file" in process.stderr


@pytest.mark.usefixtures("kaggle_server")
def test_a_full_disk_ends_a_stage_with_status_78_and_leaves_no_files(
    tmp_path: Path, run_on_small_disk: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, small = tmp_path / "store", tmp_path / "small"
    carclf, run = [sys.executable, "-m", "carclf"], ["--run", "r", "--store", str(store)]
    subprocess.run([*carclf, "download", *run, "--set", "data.source=demo-cars"], check=True)

    def stored_keys() -> list[str]:
        return sorted(key for key in open_store(str(store)).list_keys() if not key.startswith("live/"))

    before = stored_keys()
    monkeypatch.setenv("CARCLF_CACHE", str(small))
    # There is room for the copy of the archive, but not for its images. The files are listed where the disk is mounted.
    wrapper = ["sh", "-c", '"$@"; echo "$?"; find "$CARCLF_CACHE" -type f', "sh"]
    process = run_on_small_disk(small, 6, [*wrapper, *carclf, "validate", *run])
    assert [line.rpartition("/")[2] for line in process.stdout.splitlines()] == ["78", "archive.zip"]
    pattern = rf"^carclf: ConfigError: .*{small}.* of 6 MB .*CARCLF_CACHE"
    assert re.search(pattern, process.stderr, re.MULTILINE), process.stderr
    assert "Traceback" not in process.stderr
    assert stored_keys() == before


def test_doctor_needs_no_kaggle_account_for_a_folder(tmp_path: Path) -> None:
    process = carclf("doctor", "--recipe", "demo", "--store", init_store(tmp_path / "store").url,
                     "--set", "data.source=./photos", home=tmp_path)
    lines = {line.split()[0]: line for line in process.stdout.splitlines()}
    assert " ok " in lines["Kaggle"] and "folder" in lines["Kaggle"]


def test_doctor_shows_the_policy_as_text_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[settings]\ngate.threshold = 0.9\ndata.metric = "accuracy"\n[approval]\noverride = false\n')
    options = ("doctor", "--recipe", "demo", "--store", init_store(tmp_path / "store").url, "--set", "data.source=./")
    text = carclf(*options, home=tmp_path, CARCLF_POLICY=str(path)).stdout
    assert f"{path}: data.metric exactly accuracy; gate.threshold at least 0.9; nobody may override the gate" in text
    printed = json.loads(carclf(*options, "--json", home=tmp_path, CARCLF_POLICY=str(path)).stdout)
    assert printed["policy"]["settings"] == {"gate.threshold": 0.9, "data.metric": "accuracy"}
    assert printed["checks"]["policy"]["state"] == "ok"


def test_doctor_warns_of_a_threshold_that_another_metric_bypasses(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[settings]\ngate.threshold = 0.9\n")
    options = ("doctor", "--recipe", "demo", "--store", init_store(tmp_path / "store").url, "--set", "data.source=./")
    printed = json.loads(carclf(*options, "--json", home=tmp_path, CARCLF_POLICY=str(path)).stdout)
    assert printed["policy"]["settings"] == {"gate.threshold": 0.9}
    check = printed["checks"]["policy"]
    assert (check["state"], "data.metric" in check["text"], "gate.max_log_loss" in check["text"]) == (
        "warning", True, True)


@pytest.mark.parametrize("text", ['[allowed]\nsources = ["s3://images/*"]\n', "[settings]\ngate.thresold = 0.9\n"])
def test_doctor_prints_the_policy_that_rejects_the_settings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    options = ("doctor", "--recipe", "demo", "--store", init_store(tmp_path / "store").url, "--set", "data.source=./")
    process = carclf(*options, "--json", home=tmp_path, CARCLF_POLICY=str(path))
    checks = json.loads(process.stdout)["checks"]
    assert process.returncode == 78
    assert checks["settings"]["state"] == "MISSING" and str(path) in checks["settings"]["text"]
    assert checks["store"]["state"] == "ok" and str(path) in checks["policy"]["text"]


def test_commands_that_start_no_run_replace_a_default_recipe_that_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[allowed]\nrecipes = ["demo"]\n')
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/a.jpg").write_bytes(b"a")
    variables = {"CARCLF_POLICY": str(tmp_path / "policy.toml"), "CARCLF_RECIPE": "gpu",
                 "CARCLF_SETTINGS": f"data.source={tmp_path}/photos"}
    store = ("--store", init_store(tmp_path / "store").url)
    assert json.loads(carclf("source", "status", "--json", *store, home=tmp_path, **variables).stdout)["changed"]
    assert " ok " in carclf("doctor", *store, home=tmp_path, **variables).stdout.splitlines()[0]
    process = carclf("source", "status", "--recipe", "gpu", *store, home=tmp_path, **variables)
    assert process.returncode == 78 and "recipe = 'gpu'" in process.stderr


def test_doctor_reports_what_is_missing_with_status_78(tmp_path: Path) -> None:
    process = carclf("doctor", "--recipe", "demo", "--store", init_store(tmp_path / "store").url, home=tmp_path)
    lines = {line.split()[0]: line for line in process.stdout.splitlines()}
    assert process.returncode == 78
    assert "MISSING" in lines["Kaggle"] and "kaggle.json" in lines["Kaggle"]
    assert " ok " in lines["store"] and " ok " in lines["weights"] and " ok " in lines["disk"]
