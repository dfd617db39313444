"""Health check of a container: ``check_health.py URL [COMPONENT]`` exits with 0 if the URL reports it as healthy."""

import json
import sys
import urllib.request

TIMEOUT_SECONDS = 20


def main() -> int:
    """Return 0 for healthy, else 1; the reason goes to the container's health log."""
    url, *components = sys.argv[1:]
    component = components[0] if components else ""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            text = response.read()
        status = json.loads(text).get(component, {}).get("status") if component else "healthy"
    except (OSError, ValueError) as error:
        print(f"{url}: {error}")
        return 1
    print(f"{component or url}: {status}")
    return 0 if status == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main())
