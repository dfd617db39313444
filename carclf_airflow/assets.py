"""The assets that the DAGs read and produce. A DAG of your own can be scheduled by them: ``schedule=[CHAMPION]``.

Each event's ``extra`` describes what the event announces, so that a consumer does not need to read the store.
"""

from airflow.sdk import Asset, AssetWatcher

from carclf_airflow.deployment import watch_options, watches_source

GROUP = "carclf"


def _source_watchers() -> list[AssetWatcher]:
    if not watches_source():
        return []
    from carclf_airflow.source_trigger import SourceTrigger  # imports Airflow's triggers, which only the watcher needs

    return [AssetWatcher("car_source_watcher", trigger=SourceTrigger(**watch_options()))]


SOURCE = Asset("car_source", group=GROUP, watchers=_source_watchers())  # the images of data.source
DATASET = Asset("car_dataset", group=GROUP)  # validated images
CANDIDATE = Asset("car_candidate", group=GROUP)  # a model that passed the gate and waits for a person's decision
CHAMPION = Asset("car_champion", group=GROUP)  # champion.json names another model
SUBMISSION = Asset("car_submission", group=GROUP)  # predictions were sent to Kaggle
