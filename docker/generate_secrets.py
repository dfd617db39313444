"""``make secrets``: what docker-compose.yml needs and has no safe default for, into .env with mode 600.

With ``--worker HOST`` it prints the .env of another machine instead, whose workers belong to this cluster at HOST.
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
MADE: dict[str, Callable[[], str]] = {
    "ADMIN_PASSWORD": lambda: secrets.token_urlsafe(15),
    "FERNET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "JWT_SECRET": lambda: secrets.token_hex(32),
    "API_SECRET_KEY": lambda: secrets.token_hex(32),
    "POSTGRES_PASSWORD": lambda: secrets.token_hex(24),  # hexadecimal: it stands in a URL
    "REDIS_PASSWORD": lambda: secrets.token_hex(24),
    "STORE_ACCESS_KEY": lambda: secrets.token_hex(10),
    "STORE_SECRET_KEY": lambda: secrets.token_hex(24),
    "GRAFANA_PASSWORD": lambda: secrets.token_urlsafe(15),
    "MLFLOW_TRACKING_PASSWORD": lambda: secrets.token_urlsafe(15),
    "MLFLOW_SECRET_KEY": lambda: secrets.token_hex(32),
}
# As Compose reads a line: empty quotes and a comment alone are no value.
GIVEN = re.compile(r"""(?m)^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(?!#|""[ \t]*$|''[ \t]*$)\S""")
# Of these a worker on another machine needs the values; of the others only that something stands there.
WORKER_HAS = {"API_SECRET_KEY", "REDIS_PASSWORD", "STORE_ACCESS_KEY", "STORE_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD"}


def add_missing(path: Path) -> list[str]:
    """Write the values that the file lacks, keep those that it has; return the names that were added."""
    before = path.read_text() if path.exists() else ""
    have = set(GIVEN.findall(before))
    added = [name for name in MADE if name not in have]
    text = before + ("\n" if before and not before.endswith("\n") else "")
    text += "".join(f"{name}={MADE[name]()}\n" for name in added)
    # Beside it and then renamed: a full disk must not cost the secrets that are there.
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return added


def for_worker(path: Path, host: str) -> str:
    """The settings of the file without what only the cluster's own machine may know."""
    kept = [
        f"{name}=not-on-this-machine" if name in MADE and name not in WORKER_HAS else line
        for line in path.read_text().splitlines() for name in [line.partition("=")[0].strip()]
    ]
    given = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in kept)}
    port = given.get("LAN_API_PORT") or "8080"
    found = {"EXECUTION_API_URL": f"http://{host}:{port}/execution/", "REDIS_HOST": host,
             "AWS_ENDPOINT_URL_S3": f"http://{host}:8333"}
    return "\n".join([*kept, *(f"{name}={value}" for name, value in found.items() if name not in given)]) + "\n"


def main() -> int:
    """Say what was added, never the values; or print a worker's file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=PATH)
    parser.add_argument("--worker", metavar="HOST", help="print the .env of a machine that only has workers")
    options = parser.parse_args()
    if options.worker and not options.path.exists():
        parser.error(f"{options.path} is not there: run make secrets on the cluster's own machine first")
    if options.worker:
        print(for_worker(options.path, options.worker), end="")
        return 0
    try:
        added = add_missing(options.path)
    except OSError as error:
        print(f"{options.path} could not be written ({error.strerror}); what was there is as it was.", file=sys.stderr)
        return 1
    print(f"{options.path}: {', '.join(added)} added" if added else f"{options.path}: complete, nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
