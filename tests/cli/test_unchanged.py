"""A run ends after its download if it would repeat a completed run."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL
from typer.testing import CliRunner

from carclf.champion import set_threshold
from carclf.cli.app import app
from carclf.config import load_config
from carclf.runs.index import list_runs
from carclf.runs.record import change_record
from carclf.runs.run import Run
from carclf.runs.unchanged import find_unchanged_run
from carclf.services.storage import Store

SAME = SMALL | {"evaluate.zooms": "1,1.2"}  # the settings of the completed run seed-0
pytestmark = pytest.mark.usefixtures("kaggle_environment")


def earlier_run(store: Store, run_id: str = "again", **changes: object) -> str:
    run = Run.start_or_resume(run_id, store, "demo", load_config("demo", SAME | changes))
    run.run_stage("download")
    return find_unchanged_run(run)


def test_a_run_with_other_settings_or_with_force_repeats_none(store_copy: Store) -> None:
    assert earlier_run(store_copy, "same") == "seed-0"
    assert earlier_run(store_copy, "seed", seed=7) == ""
    assert earlier_run(store_copy, "unfinished", seed=1) == ""  # seed-1 has no decision
    assert earlier_run(store_copy, "forced", force=True) == ""


def test_changed_label_fixes_or_a_changed_threshold_are_new(store_copy: Store) -> None:
    fixes = Path(store_copy.url, "label_fixes.csv")
    fixes.write_text("id,action,label\n1.jpg,drop,\n")
    assert earlier_run(store_copy) == ""
    fixes.unlink()
    assert earlier_run(store_copy) == "seed-0"
    set_threshold(store_copy, 0.5, "ada")
    assert earlier_run(store_copy) == ""


@pytest.mark.parametrize("change", [{"code": "0" * 64}, {"versions": {"keras": "1"}}, {"recipe": "cpu"}])
def test_other_code_packages_or_recipes_are_new(store_copy: Store, change: dict[str, Any]) -> None:
    change_record(store_copy, "seed-0", lambda record: {**record, **change})  # type: ignore[typeddict-item]
    assert earlier_run(store_copy) == ""


def test_the_command_skips_the_stages_after_download(store_copy: Store) -> None:
    settings = [part for name, value in SAME.items() for part in ("--set", f"{name}={value}")]
    command = ["download", "--store", store_copy.url, "--recipe", "demo", *settings]
    for run, options, status in (("manual", [], 0), ("scheduled", ["--skip-unchanged"], 99)):
        result = CliRunner().invoke(app, [*command, "--run", run, *options])
        assert result.exit_code == status, result.output
    rows = {row["run"]: row for row in list_runs(store_copy)}
    assert (rows["manual"]["state"], rows["scheduled"]["state"]) == ("incomplete", "done")
    assert rows["scheduled"]["text"].startswith("nothing new: run seed-0 ")
