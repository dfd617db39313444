"""Options of the DAGs that a deployment sets by environment variables."""

import os
from datetime import timedelta
from math import inf
from typing import Any

from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable
from airflow.settings import TIMEZONE


def deployment_recipe() -> str:
    """Return the recipe of scheduled runs (CARCLF_RECIPE)."""
    return os.environ.get("CARCLF_RECIPE") or "gpu"


def deployment_schedule() -> str | None:
    """Return the schedule of car_retrain (CARCLF_SCHEDULE); None if it only runs when triggered."""
    schedule = os.environ.get("CARCLF_SCHEDULE", "@weekly")
    return None if schedule in ("", "none") else schedule


def watches_source() -> bool:
    """Return whether a changed source starts a run (CARCLF_WATCH_SOURCE)."""
    return _is_on("CARCLF_WATCH_SOURCE")


def watches_images() -> bool:
    """Return whether new images of CARCLF_PREDICT_SOURCE start a prediction (CARCLF_WATCH_PREDICT_SOURCE)."""
    return _is_on("CARCLF_WATCH_PREDICT_SOURCE") and bool(os.environ.get("CARCLF_PREDICT_SOURCE"))


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "on", "yes")


def watch_options() -> dict[str, float]:
    """Return when a changed source starts a run, as arguments of ``SourceTrigger``.

    Raises:
        ValueError: A variable is not a number, is negative, or for CARCLF_POLL_SECONDS is less than 1.
    """
    return {
        "poll_seconds": _number("CARCLF_POLL_SECONDS", 300, at_least=1),
        "quiet_minutes": _number("CARCLF_QUIET_MINUTES", 30),
        "min_new_images": _number("CARCLF_MIN_NEW_IMAGES", 0),
        "min_hours_between_runs": _number("CARCLF_MIN_HOURS_BETWEEN_RUNS", 6),
    }


def _number(name: str, default: float, at_least: float = 0) -> float:
    text = os.environ.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not at_least <= number < inf:
        raise ValueError(f"Invalid {name}={text}: expected a number, at least {at_least}, such as {default}.")
    return number


def asset_or_time(asset: Asset | AssetAny, cron: str | None) -> AssetOrTimeSchedule | list[Asset | AssetAny]:
    """Return a schedule by an asset, and by a cron expression or preset unless it is empty or "none".

    The times are in Airflow's default time zone, as with a schedule by times only.
    """
    if cron in (None, "", "none"):
        return [asset]
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone=TIMEZONE), assets=[asset])


def publish_schedule(champion: Asset) -> AssetOrTimeSchedule | list[Asset | AssetAny]:
    """Return the schedule of car_publish: a new champion, or the time (CARCLF_PUBLISH_SCHEDULE; "none" for no time)."""
    return asset_or_time(champion, os.environ.get("CARCLF_PUBLISH_SCHEDULE") or "@daily")


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
