"""A container's health: ``check_health.py URL [COMPONENT]`` ends with 0 where the URL says so of the component."""

import json
import sys
import urllib.request

SECONDS = 20


def main() -> int:
    """0 for healthy, 1 for not; the reason goes to the container's health log."""
    url, component = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            text = answer.read()
        status = json.loads(text).get(component, {}).get("status") if component else "healthy"
    except (OSError, ValueError) as error:
        print(f"{url}: {error}")
        return 1
    print(f"{component or url}: {status}")
    return 0 if status == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main())
