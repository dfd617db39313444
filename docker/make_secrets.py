"""``make secrets``: what docker-compose.yml needs and has no safe default for, into .env with mode 600."""

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


def add_missing(path: Path) -> list[str]:
    """Write the values that the file lacks, keep those that it has; return the names that were added."""
    before = path.read_text() if path.exists() else ""
    have = set(re.findall(r"(?m)^\s*(?:export\s+)?(\w+)\s*=\s*\S", before))
    added = [name for name in MADE if name not in have]
    text = before + ("\n" if before and not before.endswith("\n") else "")
    text += "".join(f"{name}={MADE[name]()}\n" for name in added)
    # Beside it and then renamed: a full disk must not cost the secrets that are there.
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    beside.replace(path)
    return added


def main() -> int:
    """Say what was added, never the values."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    added = add_missing(path)
    print(f"{path}: {', '.join(added)} added" if added else f"{path}: complete, nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
