"""Start the api-server; move the administrator's password from its environment to a private file."""

import json
import os
from pathlib import Path


def main() -> None:
    """Write the file of passwords, mode 600, and replace this process by ``airflow api-server``."""
    path = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"admin": os.environ.pop("AIRFLOW_ADMIN_PASSWORD")}, file)
    os.execvp("airflow", ["airflow", "api-server"])


if __name__ == "__main__":
    main()
