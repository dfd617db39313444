"""carclf predict: the evaluation's probabilities for single pictures, and what cannot be read is named."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carclf.artifacts import Archive, Evaluation, Split
from carclf.cli.app import main
from carclf.dataset.archives import extract_images
from carclf.errors import ConfigError
from carclf.inference.calibration import apply_temperature
from carclf.runs.model_selection import select_model
from carclf.runs.run import Run
from carclf.services.storage import Store, open_store


def carclf(store: Store, *arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carclf", *map(str, arguments), "--store", str(store.url)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def validated(store: Store) -> tuple[pd.DataFrame, list[Path]]:
    """The predictions of the champion's evaluation, and the files of their pictures."""
    run = Run.load("seed-0", store)
    rows = pd.read_parquet(run.artifact(Split, "split").path(store, "split.parquet")).set_index("id")
    told = pd.read_parquet(run.artifact(Evaluation, "evaluate").path(store, "predictions.parquet"))
    folder = extract_images(run.artifact(Archive, "download"), store)
    return told, [folder / path for path in rows.loc[told["id"], "path"]]


def test_a_picture_gets_the_calibrated_probabilities_of_the_evaluation(
    store: Store, validated: tuple[pd.DataFrame, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    told, paths = validated
    temperature = Run.load("seed-0", store).artifact(Evaluation, "evaluate").metrics["temperature"]
    wanted = apply_temperature(told.filter(regex=r"^p\d").to_numpy(float), temperature)
    assert carclf(store, "predict", *paths, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in paths]
    assert [line["class"] for line in lines] == told["predicted"].tolist()
    assert {line["temperature"] for line in lines} == {temperature} != {1.0}
    np.testing.assert_allclose([list(line["probabilities"].values()) for line in lines], wanted, atol=1e-6)


def test_what_cannot_be_read_is_named_and_the_others_are_answered(
    store: Store, validated: tuple[pd.DataFrame, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/a.jpg").write_bytes(validated[1][0].read_bytes())
    (tmp_path / "inside/b\x1b[2J.jpg").write_bytes(b"no picture")
    (tmp_path / "inside/.hidden").write_bytes(b"")
    assert carclf(store, "predict", tmp_path / "inside", tmp_path / "gone.jpg", "--run", "seed-0", "--top", "2") == 65
    told = capsys.readouterr()
    first, second, third = told.out.splitlines()
    assert first.startswith(f"{tmp_path}/inside/a.jpg: class {validated[0]['predicted'][0]} ")
    assert first.count("class ") == 2
    assert second == f"{tmp_path}/inside/b\\x1b[2J.jpg: it cannot be decoded: it is no picture that Pillow knows"
    assert third == f"{tmp_path}/gone.jpg: it cannot be read: No such file or directory"
    assert "2 of 3 files are no pictures that can be read" in told.err and "Traceback" not in told.err


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"key": "0" * 16, "run": "seed-0"}, "not both"),
        ({"key": "0" * 16}, "There is no model '0000000000000000'"),
        ({"key": "../x"}, "is no key of a model"),
        ({"run": "nobody"}, "There is no run 'nobody'"),
    ],
)
def test_a_model_that_is_not_there_is_a_clear_error(store: Store, wanted: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_model(store, **wanted)


def test_without_a_champion_a_model_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no champion yet\. Give --run or --model"):
        select_model(open_store(str(tmp_path)))


def test_a_model_is_found_by_key_by_run_and_as_the_champion_with_its_evaluation(store: Store) -> None:
    run = Run.load("seed-0", store)
    evaluation = run.artifact(Evaluation, "evaluate")
    champion, by_run = select_model(store), select_model(store, run="seed-0")
    by_key = select_model(store, key=champion.model.key)
    assert champion.model == by_run.model == by_key.model
    assert champion.evaluation == by_run.evaluation == by_key.evaluation == evaluation
    assert champion.record["run"] == by_run.record["run"] == by_key.record["run"] == "seed-0"
    assert champion.decision and champion.decision.metrics["decision"] == "promoted"
    other = select_model(store, run="seed-1")
    assert other.decision is None and select_model(store, key=other.model.key).evaluation == other.evaluation
