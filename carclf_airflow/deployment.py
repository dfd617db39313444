"""Options of the DAGs that a deployment sets by environment variables."""

import os
from datetime import timedelta
from typing import Any


def deployment_recipe() -> str:
    """Return the recipe of scheduled runs (CARCLF_RECIPE)."""
    return os.environ.get("CARCLF_RECIPE") or "gpu"


def deployment_schedule() -> str | None:
    """Return the schedule of car_retrain (CARCLF_SCHEDULE); None if it only runs when triggered."""
    schedule = os.environ.get("CARCLF_SCHEDULE", "@weekly")
    return None if schedule in ("", "none") else schedule


def poke_seconds() -> float:
    """Return the seconds between two pokes of a sensor (CARCLF_POKE_INTERVAL_SECONDS)."""
    return float(os.environ.get("CARCLF_POKE_INTERVAL_SECONDS", "30"))


def max_parallel_trainings() -> int | None:
    """Return how many trainings run at once (CARCLF_MAX_PARALLEL_TRAININGS); None to use all workers."""
    return int(os.environ.get("CARCLF_MAX_PARALLEL_TRAININGS") or 0) or None


def task_defaults() -> dict[str, Any]:
    """Return the queue and the retries of all tasks (CARCLF_RETRY_DELAY_SECONDS)."""
    delay = timedelta(seconds=float(os.environ.get("CARCLF_RETRY_DELAY_SECONDS", "30")))
    return {"queue": "gpu", "retries": 3, "retry_delay": delay, "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=30)}
