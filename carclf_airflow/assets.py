"""The assets that the DAGs read and produce. A DAG of your own can be scheduled by them: ``schedule=[CHAMPION]``.

Each event's ``extra`` describes what the event announces, so that a consumer does not need to read the store.
"""

from airflow.sdk import Asset

GROUP = "carclf"

SOURCE = Asset("car_source", group=GROUP)  # the images of data.source
DATASET = Asset("car_dataset", group=GROUP)  # validated images
CANDIDATE = Asset("car_candidate", group=GROUP)  # a model that passed the gate and waits for a person's decision
CHAMPION = Asset("car_champion", group=GROUP)  # champion.json names another model
SUBMISSION = Asset("car_submission", group=GROUP)  # predictions were sent to Kaggle
