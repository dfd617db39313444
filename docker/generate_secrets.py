"""``make secrets``: generate the secrets that docker-compose.yml requires, and add them to .env (mode 600).

``--worker HOST`` instead prints the .env of another machine, whose workers join the cluster at HOST.
"""

import argparse
import base64
import os
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

PATH = Path(__file__).resolve().parent.parent / ".env"
GENERATORS: dict[str, Callable[[], str]] = {
    "ADMIN_PASSWORD": lambda: secrets.token_urlsafe(15),
    "FERNET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "JWT_SECRET": lambda: secrets.token_hex(32),
    "API_SECRET_KEY": lambda: secrets.token_hex(32),
    "POSTGRES_PASSWORD": lambda: secrets.token_hex(24),  # hexadecimal, because it is part of a URL
    "REDIS_PASSWORD": lambda: secrets.token_hex(24),
    "STORE_ACCESS_KEY": lambda: secrets.token_hex(10),
    "STORE_SECRET_KEY": lambda: secrets.token_hex(24),
    "GRAFANA_PASSWORD": lambda: secrets.token_urlsafe(15),
    "MLFLOW_TRACKING_PASSWORD": lambda: secrets.token_urlsafe(15),
    "MLFLOW_SECRET_KEY": lambda: secrets.token_hex(32),
    "DEMO_KEY": lambda: secrets.token_hex(16),
}
# Like Compose: empty quotes or a comment alone are not a value.
ASSIGNMENT = re.compile(r"""(?m)^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(?!#|""[ \t]*$|''[ \t]*$)\S""")
# The secrets that a worker on another machine needs; the others only have to be set to something.
WORKER_SECRETS = {
    "API_SECRET_KEY", "REDIS_PASSWORD", "STORE_ACCESS_KEY", "STORE_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD",
}
KAGGLE_CREDENTIALS = {"KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"}  # only the api-server needs them


def add_missing(path: Path) -> list[str]:
    """Add missing values to the file, keep existing values, and return the added names."""
    current = path.read_text() if path.exists() else ""
    present = set(ASSIGNMENT.findall(current))
    added = [name for name in GENERATORS if name not in present]
    text = current + ("\n" if current and not current.endswith("\n") else "")
    text += "".join(f"{name}={GENERATORS[name]()}\n" for name in added)
    # Write a new file, then rename it: a full disk must not cost the existing secrets.
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return added


def worker_settings(path: Path, host: str) -> str:
    """Return the file's settings for a worker on another machine, without the secrets that it does not need."""
    hidden = GENERATORS.keys() - WORKER_SECRETS | KAGGLE_CREDENTIALS
    lines = [
        f"{name}=not-on-this-machine" if name in hidden else line
        for line in path.read_text().splitlines() for name in [line.partition("=")[0].strip()]
    ]
    settings = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    port = settings.get("LAN_API_PORT") or "8080"
    cluster = {"EXECUTION_API_URL": f"http://{host}:{port}/execution/", "REDIS_HOST": host,
               "AWS_ENDPOINT_URL_S3": f"http://{host}:8333"}
    added = [f"{name}={value}" for name, value in cluster.items() if name not in settings]
    return "\n".join([*lines, *added]) + "\n"


def main() -> int:
    """Print the names that were added, never their values; or print a worker's file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=PATH)
    parser.add_argument("--worker", metavar="HOST", help="print the .env of a machine that only runs workers")
    options = parser.parse_args()
    if options.worker and not options.path.exists():
        parser.error(f"{options.path} does not exist: run make secrets on the cluster's machine first")
    if options.worker:
        print(worker_settings(options.path, options.worker), end="")
        return 0
    try:
        added = add_missing(options.path)
    except OSError as error:
        print(f"Cannot write {options.path}: {error.strerror}. The file is unchanged.", file=sys.stderr)
        return 1
    print(f"{options.path}: added {', '.join(added)}" if added else f"{options.path}: complete, nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
