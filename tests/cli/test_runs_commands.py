"""``carclf runs``, and the facts of real runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import run_to

from carclf.artifacts import Archive, Evaluation
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import artifact_file, run_facts
from carclf.dataset.archives import extract_images
from carclf.runs.index import list_runs, rebuild_index
from carclf.runs.run import Run
from carclf.services.storage import Store
from carclf.stages.chain import stages_of

JPEG = "data:image/jpeg;base64,"


def carclf(*arguments: str, store: Store) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CARCLF_STORE": store.url, "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "carclf", "runs", *arguments], env=environment, capture_output=True,
                          text=True, check=False)


def test_the_index_has_the_states_and_metrics_of_real_runs(store: Store) -> None:
    by_run = {row["run"]: row for row in list_runs(store)}
    # where the fixture stopped them
    assert {name: (row["state"], row["stage"], row["decision"]) for name, row in by_run.items()} == {
        "fold-0": ("incomplete", "evaluate", ""), "fold-1": ("incomplete", "evaluate", ""),
        "seed-1": ("incomplete", "evaluate", ""),
        "wide": ("incomplete", "evaluate", ""), "seed-0": ("done", "promote", "promoted")}
    assert [name for name, row in by_run.items() if row["champion"]] == ["seed-0"]
    metrics = Run.load("wide", store).artifact(Evaluation, "evaluate").metrics
    assert by_run["wide"]["val_accuracy"] == metrics["val_accuracy"] and by_run["wide"]["minutes"] > 0
    before = store.read("runs.json")
    assert rebuild_index(store) == 5 and store.read("runs.json") == before


def test_the_facts_of_a_finished_run_are_complete(store: Store) -> None:
    facts = run_facts(store, "seed-0")
    data = facts.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data and facts.problems == ()
    assert [(stage.name, stage.state) for stage in facts.stages] == [
        (stage, "done") for stage in stages_of({})[:7]] + [("submit", "skipped"), ("score", "skipped")]
    assert all(stage.files and stage.seconds is not None for stage in facts.stages[:7])
    assert facts.row["champion"] and "evaluate.zooms" in {setting.name for setting in facts.header.settings}
    assert facts.decision is not None and facts.decision.decision == "promoted" and facts.decision.rules
    head = facts.curves["train_head"]
    assert [epoch["epoch"] for epoch in head] == [1, 2, 3] and all((epoch["val_loss"] or 0) > 0 for epoch in head)


def test_the_facts_of_data_and_evaluation_agree_with_the_metrics(store: Store) -> None:
    facts = run_facts(store, "seed-0")
    metrics = facts.stages[1].metrics
    assert facts.data is not None and facts.data.metrics.items() >= metrics.items()
    num_images = sum(facts.data.num_images_by_class.values())
    assert num_images == metrics["num_train"] + metrics["num_unusable"]
    assert facts.data.split == facts.stages[2].metrics and facts.data.audit == {}
    evaluation = facts.evaluation
    assert evaluation is not None
    assert evaluation.num_correct == sum(row[column] for column, row in enumerate(evaluation.confusion))
    recalls = [row.recall for row in evaluation.classes]
    assert recalls == sorted(recalls) and all(row.low <= row.recall <= row.high for row in evaluation.classes)
    assert sum(row.num_images for row in evaluation.reliability) == evaluation.num_images


def test_the_errors_of_a_run_have_images_and_overlays(store: Store) -> None:
    errors = run_facts(store, "seed-1").errors
    assert errors and [error.number for error in errors] == list(range(len(errors)))
    for error in errors:
        assert error.label != error.predicted and error.probability is not None and 0 < error.probability <= 1
        assert error.image.startswith(JPEG) and error.overlay.startswith(JPEG)
    page = artifact_file(store, "seed-1", "evaluate", "report.html")
    assert page is not None and page.startswith(b"<!")


def test_two_runs_of_one_split_are_compared_on_their_common_images(store: Store) -> None:
    extract_images(Run.load("seed-0", store).artifact(Archive, "download"), store)
    comparison = compare_runs(store, "seed-0", "wide")
    metrics = [Run.load(run, store).artifact(Evaluation, "evaluate").metrics for run in ("seed-0", "wide")]
    paired = comparison.paired
    assert paired.num_images == metrics[0]["num_images"]
    assert [paired.accuracy_a, paired.accuracy_b] == pytest.approx([values["val_accuracy"] for values in metrics])
    assert {setting.name for setting in comparison.settings} == {
        "model.image_height", "model.image_width", "evaluate.zooms"}
    assert (comparison.a.champion, comparison.b.champion) == (True, False)
    assert comparison.num_changed == len(comparison.changed_predictions) > 0
    for row in comparison.changed_predictions:
        assert 0 < (row.a_probability or 0) <= 1 and 0 < (row.b_probability or 0) <= 1
        assert row.image.startswith(JPEG)


def test_runs_trained_on_each_others_validation_images_are_not_comparable(store: Store) -> None:
    assert compare_runs(store, "fold-0", "fold-1").conclusion == "not_comparable"


def test_the_log_of_a_stage_has_its_inputs_settings_and_metrics(
    store_copy: Store, kaggle_environment: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "carclf")
    run = run_to("split", store_copy, "logged")
    done = run.record["stages"]
    lines = [record.getMessage() for record in caplog.records]
    split = [line for line in lines if line.startswith("split: ")]
    assert split[0] == (
        f"split: started run=logged store={store_copy.url} inputs=datasets/{done['validate']['key']} "
        "split.val_fraction=0.3"
    )
    assert split[-1].startswith(f"split: reused artifact=splits/{done['split']['key']} seconds=")
    assert split[-1].endswith(done["split"]["summary"]) and "class_names" not in split[-1]


def output_lines(*arguments: str, store: Store) -> list[str]:
    process = carclf(*arguments, store=store)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_the_commands_list_show_and_compare(store_copy: Store) -> None:
    lines = output_lines("list", store=store_copy)
    assert lines[0].split() == ["run", "recipe", "created", "state", "stage", "accuracy", "95%", "public", "decision",
                                "minutes", "GPU"]
    assert {line.split()[-7 if line[0] == " " else -8] for line in lines[1:]} == {"demo"}
    assert [line.split()[:2] for line in lines if line.startswith("*")] == [["*", "seed-0"]]
    text = "\n".join(output_lines("list", "--json", "--sort", "-val_accuracy", store=store_copy))
    listed: list[dict[str, Any]] = json.loads(text)
    accuracies = [row["val_accuracy"] for row in listed]
    assert accuracies == sorted(accuracies, reverse=True) and len(listed) == 5
    shown = output_lines("show", "seed-0", store=store_copy)
    assert shown[0].startswith("seed-0, recipe demo, started 20") and shown[0].endswith(", the champion")
    assert {line.split()[0] for line in shown if line.split()} >= {*stages_of({}), "evaluate.zooms"}
    compared = output_lines("compare", "seed-0", "wide", store=store_copy)
    assert compared[0] == compare_runs(store_copy, "seed-0", "wide").summary
    assert ["model.image_width", "64", "128"] in [line.split() for line in compared]
    Path(store_copy.url, "runs.json").unlink()
    assert output_lines("reindex", store=store_copy) == [f"runs.json in {store_copy.url}: 5 runs"]
    Path(store_copy.url, "runs/wide.json").write_text("{")
    damaged = carclf("reindex", store=store_copy)
    assert damaged.returncode == 65 and "wide" in damaged.stderr


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["list", "--sort", "color"], 78, "'color'. Use one of run, recipe"),
    (["show", "../champion"], 78, "Invalid run id"),
    (["show", "nobody"], 66, "There is no run 'nobody' in"),
    (["compare", "seed-0", "nobody"], 66, "There is no run 'nobody' in"),
])
def test_an_invalid_argument_ends_with_its_status(
    store: Store, arguments: list[str], status: int, message: str
) -> None:
    process = carclf(*arguments, store=store)
    assert (process.returncode, process.stdout) == (status, "")
    assert message in process.stderr and "Traceback" not in process.stderr
