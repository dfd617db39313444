"""``make secrets``: existing values stay, missing ones are generated, and only the owner may read the file."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = [
    "ADMIN_PASSWORD", "FERNET_KEY", "JWT_SECRET", "API_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD",
    "STORE_ACCESS_KEY", "STORE_SECRET_KEY", "GRAFANA_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_SECRET_KEY",
    "DEMO_KEY",
]


def generate(path: Path, *options: str) -> str:
    command = [sys.executable, str(ROOT / "docker/generate_secrets.py"), str(path), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def values(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_all_values_are_random_and_only_the_owner_may_read_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    printed = generate(first)
    generate(second)
    assert list(values(first)) == NAMES
    assert not set(values(first).values()) & set(values(second).values())
    assert min(map(len, values(first).values())) >= 20
    assert first.stat().st_mode & 0o777 == 0o600
    assert printed == f"{first}: added {', '.join(NAMES)}\n"


def test_existing_values_stay_and_missing_or_empty_ones_are_added(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nADMIN_PASSWORD=chosen\nUI_PORT=8081\nFERNET_KEY=")
    path.chmod(0o644)
    generate(path)
    text = path.read_text()
    assert text.startswith("# mine\nADMIN_PASSWORD=chosen\nUI_PORT=8081\nFERNET_KEY=\n")
    assert re.findall(r"(?m)^(\w+)=\S", text) == ["ADMIN_PASSWORD", "UI_PORT", *NAMES[1:]]
    assert path.stat().st_mode & 0o777 == 0o600
    assert generate(path) == f"{path}: complete, nothing changed\n"
    assert path.read_text() == text


def test_a_line_without_a_value_counts_as_missing_as_in_compose(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("FERNET_KEY=\nUI_PORT=8081\nJWT_SECRET=\"\"\nREDIS_PASSWORD=''\nAPI_SECRET_KEY=  # later\n")
    generate(path)
    assert re.findall(r"(?m)^(\w+)=[\w-]", path.read_text()) == ["UI_PORT", *NAMES]


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / ".env"
    command = [sys.executable, str(ROOT / "docker/generate_secrets.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_passwords_in_urls_need_no_escaping(tmp_path: Path) -> None:
    generate(tmp_path / ".env")
    generated = values(tmp_path / ".env")
    assert all(re.fullmatch("[0-9a-f]+", generated[name]) for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"))


def test_a_workers_file_has_only_the_secrets_of_a_worker(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("KAGGLE_API_TOKEN=token\nTOTAL_WORKERS=3\n")
    generate(path)
    cluster = values(path)
    needed = {"API_SECRET_KEY", "REDIS_PASSWORD", "STORE_ACCESS_KEY", "STORE_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD"}
    other = tmp_path / "other"
    other.write_text(generate(path, "--worker", "10.0.0.5"))
    assert values(other) == {
        "TOTAL_WORKERS": "3", **dict.fromkeys([*NAMES, "KAGGLE_API_TOKEN"], "not-on-this-machine"),
        **{name: cluster[name] for name in needed}, "EXECUTION_API_URL": "http://10.0.0.5:8080/execution/",
        "REDIS_HOST": "10.0.0.5", "AWS_ENDPOINT_URL_S3": "http://10.0.0.5:8333",
    }


def test_a_workers_file_has_the_port_of_the_clusters_api(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("LAN_API_PORT=8090\n")
    generate(path)
    assert "EXECUTION_API_URL=http://10.0.0.5:8090/execution/" in generate(path, "--worker", "10.0.0.5").splitlines()
