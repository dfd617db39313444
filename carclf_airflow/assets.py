"""The assets that the DAGs read and produce. A DAG of your own can be scheduled by them: ``schedule=[CHAMPION]``.

Each event's ``extra`` describes what the event announces, so that a consumer does not need to read the store.
"""

from airflow.sdk import Asset, AssetWatcher

from carclf_airflow.deployment import watch_options, watches_images, watches_source

GROUP = "carclf"


def _source_watchers() -> list[AssetWatcher]:
    if not watches_source():
        return []
    from carclf_airflow.source_trigger import SourceTrigger  # imports Airflow's triggers, which only the watcher needs

    return [AssetWatcher("car_source_watcher", trigger=SourceTrigger(**watch_options()))]


def _image_watchers() -> list[AssetWatcher]:
    if not watches_images():
        return []
    from carclf_airflow.source_trigger import PredictionTrigger

    # Predictions need not wait for the time between two trainings.
    options = watch_options() | {"min_hours_between_runs": 0}
    return [AssetWatcher("car_images_watcher", trigger=PredictionTrigger(**options))]


SOURCE = Asset("car_source", group=GROUP, watchers=_source_watchers())  # the images of data.source
IMAGES = Asset("car_images", group=GROUP, watchers=_image_watchers())  # the images of CARCLF_PREDICT_SOURCE
DATASET = Asset("car_dataset", group=GROUP)  # validated images
CANDIDATE = Asset("car_candidate", group=GROUP)  # a model that passed the gate and waits for a person's decision
CHAMPION = Asset("car_champion", group=GROUP)  # champion.json names another model
SUBMISSION = Asset("car_submission", group=GROUP)  # predictions were sent to Kaggle
