"""The schedule, the trigger form and the number of tasks of car_predict, from environment variables."""

import os

from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, Param

from carclf_airflow.assets import CHAMPION, IMAGES
from carclf_airflow.deployment import asset_or_time, watches_images
from carclf_airflow.retrain_form import form_policy


def predict_schedule() -> list[Asset | AssetAny] | AssetOrTimeSchedule | None:
    """Return the schedule: a new champion, new images if they are watched, and CARCLF_PREDICT_SCHEDULE (cron).

    Without CARCLF_PREDICT_SOURCE there is nothing to predict: None.
    """
    if not os.environ.get("CARCLF_PREDICT_SOURCE"):
        return None
    return asset_or_time(CHAMPION | IMAGES if watches_images() else CHAMPION, os.environ.get("CARCLF_PREDICT_SCHEDULE"))


def predict_params() -> dict[str, Param]:
    """Return the form: the source, by default CARCLF_PREDICT_SOURCE."""
    source = os.environ.get("CARCLF_PREDICT_SOURCE") or None
    return {"source": source_param(source, "The images: s3://bucket/prefix or the path of a folder.")}


def source_param(source: str | None, description: str) -> Param:
    """Return the field of a source with a default; its description also names the sources that the policy allows."""
    hint = f"{description} {form_policy().setting_hint('data.source')}".strip()
    return Param(source, type="string", minLength=1, title="Source", description=hint)


def max_predict_tasks() -> int:
    """Return the number of tasks among which the shards are divided (CARCLF_PREDICT_TASKS)."""
    return int(os.environ.get("CARCLF_PREDICT_TASKS") or 16)
