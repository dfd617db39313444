"""What an experiment is called that ``make demo EXPERIMENT=`` is given."""

import pytest

from carclf.experiments.plan import EXPERIMENT_NAME
from carclf_airflow.local.experiment_run import experiment_name


@pytest.mark.parametrize(("form", "name"), [
    ("docs/experiments/ladder-cars10.json", "ladder-cars10"), ("größe 1.json", "gr-e-1"), ("_x.json", "x"),
    ("\u8eca.json", "experiment"), ('{"recipe": "demo"}', "experiment"), (f"{'a' * 200}.json", "a" * 80),
])
def test_whatever_the_file_is_called_airflow_and_the_store_take_the_experiments_name(form, name):
    assert experiment_name(form) == name
    assert EXPERIMENT_NAME.fullmatch(f"{name}-20261125T151449")
