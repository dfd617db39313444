"""``make secrets``: what is there is never changed, what is missing is added, and only its owner may read it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = [
    "ADMIN_PASSWORD", "FERNET_KEY", "JWT_SECRET", "API_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD",
    "STORE_ACCESS_KEY", "STORE_SECRET_KEY", "GRAFANA_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_SECRET_KEY",
]


def make(path: Path, *options: str) -> str:
    command = [sys.executable, str(ROOT / "docker/generate_secrets.py"), str(path), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def values(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_every_value_is_made_at_random_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said = make(first)
    make(second)
    assert list(values(first)) == NAMES
    assert not set(values(first).values()) & set(values(second).values())
    assert min(map(len, values(first).values())) >= 20
    assert first.stat().st_mode & 0o777 == 0o600
    assert said == f"{first}: {', '.join(NAMES)} added\n"


def test_values_that_are_there_stay_and_what_is_missing_or_empty_is_added(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nADMIN_PASSWORD=chosen\nUI_PORT=8081\nFERNET_KEY=")
    path.chmod(0o644)
    make(path)
    text = path.read_text()
    assert text.startswith("# mine\nADMIN_PASSWORD=chosen\nUI_PORT=8081\nFERNET_KEY=\n")
    assert re.findall(r"(?m)^(\w+)=\S", text) == ["ADMIN_PASSWORD", "UI_PORT", *NAMES[1:]]
    assert path.stat().st_mode & 0o777 == 0o600
    assert make(path) == f"{path}: complete, nothing changed\n"
    assert path.read_text() == text


def test_a_line_without_a_value_is_one_that_is_missing_as_for_compose(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("FERNET_KEY=\nUI_PORT=8081\nJWT_SECRET=\"\"\nREDIS_PASSWORD=''\nAPI_SECRET_KEY=  # later\n")
    make(path)
    assert re.findall(r"(?m)^(\w+)=[\w-]", path.read_text()) == ["UI_PORT", *NAMES]


def test_a_file_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / ".env"
    command = [sys.executable, str(ROOT / "docker/generate_secrets.py"), str(path)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"{path} could not be written (No such file or directory); what was there is as it was.\n"


def test_what_stands_in_a_url_needs_no_escape(tmp_path: Path) -> None:
    make(tmp_path / ".env")
    found = values(tmp_path / ".env")
    assert all(re.fullmatch("[0-9a-f]+", found[name]) for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"))


def test_another_machine_is_given_what_a_worker_needs_and_none_of_the_rest(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("KAGGLE_API_TOKEN=token\nALL_WORKERS=3\n")
    make(path)
    mine = values(path)
    needed = {"API_SECRET_KEY", "REDIS_PASSWORD", "STORE_ACCESS_KEY", "STORE_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD"}
    other = tmp_path / "other"
    other.write_text(make(path, "--worker", "10.0.0.5"))
    assert values(other) == {
        "KAGGLE_API_TOKEN": "token", "TOTAL_WORKERS": "3", **dict.fromkeys(NAMES, "not-on-this-machine"),
        **{name: mine[name] for name in needed}, "EXECUTION_API_URL": "http://10.0.0.5:8080/execution/",
        "REDIS_HOST": "10.0.0.5", "AWS_ENDPOINT_URL_S3": "http://10.0.0.5:8333",
    }


def test_another_machine_is_told_the_port_on_which_the_api_listens_there(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("LAN_API_PORT=8090\n")
    make(path)
    assert "EXECUTION_API_URL=http://10.0.0.5:8090/execution/" in make(path, "--worker", "10.0.0.5").splitlines()
