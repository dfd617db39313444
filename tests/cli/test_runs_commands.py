"""``carclf runs`` and the facts of real runs."""

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
from carclf.dashboard.run_facts import artifact_file, error_image, run_facts
from carclf.dataset.archives import extract_images
from carclf.runs.index import list_runs, rebuild_index
from carclf.runs.run import Run
from carclf.services.storage import Store
from carclf.stages.chain import STAGES

JPEG = "data:image/jpeg;base64,"


def carclf(*arguments: str, store: Store) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CARCLF_STORE": store.url, "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "carclf", "runs", *arguments], env=environment, capture_output=True,
                          text=True)


def test_real_runs_are_in_the_index_as_their_records_say(store: Store) -> None:
    by_run = {row["run"]: row for row in list_runs(store)}
    # those that end where the fixture ends them
    assert {name: (row["state"], row["stage"], row["decision"]) for name, row in by_run.items()} == {
        "fold-0": ("pending", "evaluate", ""), "fold-1": ("pending", "evaluate", ""), "seed-1": ("pending", "evaluate", ""),
        "wide": ("pending", "evaluate", ""), "seed-0": ("done", "promote", "promoted")}
    assert [name for name, row in by_run.items() if row["champion"]] == ["seed-0"]
    metrics = Run.load("wide", store).artifact(Evaluation, "evaluate").metrics
    assert by_run["wide"]["val_accuracy"] == metrics["val_accuracy"] and by_run["wide"]["minutes"] > 0
    before = store.read("runs.json")
    assert rebuild_index(store) == 5 and store.read("runs.json") == before


def test_the_facts_of_a_real_run_are_whole(store: Store) -> None:
    found = run_facts(store, "seed-0")
    assert json.loads(json.dumps(found, allow_nan=False)) == found and found["problems"] == []
    assert [(stage["name"], stage["state"]) for stage in found["stages"]] == [
        (stage, "done") for stage in list(STAGES)[:7]] + [("submit", "skipped"), ("score", "skipped")]
    assert all(stage["files"] and stage["seconds"] is not None for stage in found["stages"][:7])
    assert found["row"]["champion"] and "evaluate.zooms" in {one["name"] for one in found["header"]["settings"]}
    head = found["curves"]["train_head"]
    assert [row["epoch"] for row in head] == [1, 2, 3] and all(row["val_loss"] > 0 for row in head)
    metrics, data = found["stages"][1]["metrics"], found["data"]
    assert data["metrics"].items() >= metrics.items()
    assert sum(one["num"] for one in data["classes"]) == metrics["num_train"] + metrics["num_unusable"]
    assert data["split"] == found["stages"][2]["metrics"] and data["audit"] == {}
    evaluation = found["evaluation"]
    assert evaluation["num_correct"] == sum(row[place] for place, row in enumerate(evaluation["confusion"]))
    recalls = [one["recall"] for one in evaluation["classes"]]
    assert recalls == sorted(recalls) and all(one["low"] <= one["recall"] <= one["high"]
                                              for one in evaluation["classes"])
    assert sum(part["num_images"] for part in evaluation["reliability"]) == evaluation["num_images"]
    assert found["decision"]["decision"] == "promoted" and found["decision"]["rules"]


def test_the_pictures_of_errors_are_given_one_by_one_too(store: Store) -> None:
    errors = run_facts(store, "seed-1")["errors"]
    assert errors and [error["number"] for error in errors] == list(range(len(errors)))
    for error in errors:
        assert error["label"] != error["predicted"] and 0 < error["probability"] <= 1
        assert error["image"].startswith(JPEG) and error["overlay"].startswith(JPEG)
    content = error_image(store, "seed-1", 0, "overlay")
    assert content is not None and content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")
    assert [error_image(store, "seed-1", number, kind) for number, kind in (
        (-1, "image"), (len(errors), "image"), (0, "label"))] == [None] * 3
    page = artifact_file(store, "seed-1", "evaluate", "report.html")
    assert page is not None and page.startswith(b"<!")


def test_two_real_runs_are_compared_on_their_common_images(store: Store) -> None:
    extract_images(Run.load("seed-0", store).artifact(Archive, "download"), store)
    found = compare_runs(store, "seed-0", "wide")
    answers = [Run.load(run, store).artifact(Evaluation, "evaluate").metrics for run in ("seed-0", "wide")]
    paired = found["paired"]
    assert paired["num_images"] == answers[0]["num_images"]  # the same split
    assert [paired["accuracy_a"], paired["accuracy_b"]] == pytest.approx([one["val_accuracy"] for one in answers])
    assert {one["name"] for one in found["settings"]} == {
        "model.image_height", "model.image_width", "evaluate.zooms"}
    assert (found["a"]["champion"], found["b"]["champion"]) == (True, False)
    assert found["num_changed"] == len(found["changed"]) > 0
    for one in found["changed"]:
        assert 0 < one["a_probability"] <= 1 and 0 < one["b_probability"] <= 1
        assert one["picture"].startswith(JPEG)
    other = compare_runs(store, "fold-0", "fold-1")
    assert other["verdict"] == "none"  # each trained on the other's validation images


def test_the_log_of_a_stage_begins_with_inputs_and_settings_and_ends_with_figures(
    store_copy: Store, kaggle: None, caplog: pytest.LogCaptureFixture
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


def told(*arguments: str, store: Store) -> list[str]:
    done = carclf(*arguments, store=store)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_commands_list_show_and_compare(store_copy: Store) -> None:
    lines = told("list", store=store_copy)
    assert lines[0].split() == ["run", "recipe", "created", "state", "stage", "accuracy", "95%", "public", "decision",
                                "minutes", "GPU"]
    assert {line.split()[-7 if line[0] == " " else -8] for line in lines[1:]} == {"demo"}
    assert [line.split()[:2] for line in lines if line.startswith("*")] == [["*", "seed-0"]]
    listed: list[dict[str, Any]] = json.loads("\n".join(told("list", "--json", "--sort", "-val_accuracy",
                                                             store=store_copy)))
    accuracies = [row["val_accuracy"] for row in listed]
    assert accuracies == sorted(accuracies, reverse=True) and len(listed) == 5
    shown = told("show", "seed-0", store=store_copy)
    assert shown[0].startswith("seed-0, recipe demo, begun 20") and shown[0].endswith(", the champion")
    assert {line.split()[0] for line in shown if line.split()} >= {*STAGES, "evaluate.zooms"}
    compared = told("compare", "seed-0", "wide", store=store_copy)
    assert compared[0] == compare_runs(store_copy, "seed-0", "wide")["summary"]
    assert ["model.image_width", "64", "128"] in [line.split() for line in compared]
    Path(store_copy.url, "runs.json").unlink()
    assert told("reindex", store=store_copy) == [f"runs.json in {store_copy.url}: 5 runs"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["list", "--sort", "color"], "Runs cannot be sorted by 'color': give one of run, recipe"),
    (["show", "nobody"], "There is no run 'nobody' in"), (["show", "../champion"], "is no run id"),
    (["compare", "seed-0", "nobody"], "There is no run 'nobody' in"),
])
def test_a_mistake_ends_with_78_and_words(store: Store, arguments: list[str], words: str) -> None:
    done = carclf(*arguments, store=store)
    assert (done.returncode, done.stdout) == (78, "") and words in done.stderr and "Traceback" not in done.stderr
