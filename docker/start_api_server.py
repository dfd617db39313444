"""Start the api-server with the administrator's password from the environment, which it then no longer holds."""

import json
import os
from pathlib import Path


def main() -> None:
    """Write the file that Airflow reads passwords from, mode 600, and become ``airflow api-server``."""
    path = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"admin": os.environ.pop("AIRFLOW_ADMIN_PASSWORD")}, file)
    os.execvp("airflow", ["airflow", "api-server"])


if __name__ == "__main__":
    main()
