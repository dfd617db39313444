"""Airflow's REST API, for commands that people run outside of Airflow. Airflow itself is not imported."""

import os
from urllib.parse import urlsplit

import requests

from carclf.progress import log

URL_VARIABLE, TOKEN_VARIABLE = "CARCLF_AIRFLOW_URL", "CARCLF_AIRFLOW_TOKEN"
DAG = "car_promote"  # each of its runs announces a new champion
TIMEOUT_SECONDS = 20


def request_announcement() -> None:
    """Start a run of car_promote, which announces the champion to Airflow's other DAGs.

    Nothing happens unless CARCLF_AIRFLOW_URL and CARCLF_AIRFLOW_TOKEN are set. A failure is logged as a warning: the
    champion has changed already, and a scheduled run announces it within the hour.
    """
    url, token = (os.environ.get(name, "").strip() for name in (URL_VARIABLE, TOKEN_VARIABLE))
    if not (url and token):
        return
    host: str | None = ""
    try:
        host = urlsplit(url).hostname
        response = requests.post(
            f"{url.rstrip('/')}/api/v2/dags/{DAG}/dagRuns", json={"logical_date": None}, timeout=TIMEOUT_SECONDS,
            headers={"Authorization": f"Bearer {token}"},
        )
        problem = "" if response.ok else f"HTTP status {response.status_code}"
    except (requests.RequestException, ValueError) as error:  # ValueError: the URL is malformed
        problem = type(error).__name__
    if problem:
        log.warning("champion: not announced host=%s error=%s. Check %s and %s (a token expires after a day), or "
                    "trigger %s in Airflow; otherwise its hourly run announces the champion.", host, problem,
                    URL_VARIABLE, TOKEN_VARIABLE, DAG)
