"""``carclf predict``: the probabilities of an evaluation for image files, and the names of unreadable files."""

import io
import json
import shutil
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
    """Return the predictions of the champion's evaluation, and the files of their images."""
    run = Run.load("seed-0", store)
    rows = run.artifact(Split, "split").rows(store).set_index("id")
    predictions = pd.read_parquet(run.artifact(Evaluation, "evaluate").path(store, "predictions.parquet"))
    folder = extract_images(run.artifact(Archive, "download"), store)
    return predictions, [folder / path for path in rows.loc[predictions["id"], "path"]]


def test_predictions_are_the_calibrated_probabilities_of_the_evaluation(
    store: Store, validated: tuple[pd.DataFrame, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, paths = validated
    temperature = Run.load("seed-0", store).artifact(Evaluation, "evaluate").metrics["temperature"]
    expected = apply_temperature(predictions.filter(regex="^p_").to_numpy(float), temperature)
    assert carclf(store, "predict", *paths, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in paths]
    assert [line["class"] for line in lines] == predictions["predicted"].tolist()
    assert {line["temperature"] for line in lines} == {temperature} != {1.0}
    np.testing.assert_allclose([list(line["probabilities"].values()) for line in lines], expected, atol=1e-6)


def test_an_interrupted_file_of_predictions_is_completed(
    store: Store, validated: tuple[pd.DataFrame, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [*validated[1][:5], tmp_path / "a, \"b\".jpg", tmp_path / "broken.jpg"]
    shutil.copy(paths[0], paths[5])
    paths[6].write_bytes(b"")
    output = tmp_path / "predictions.csv"
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in paths)))
    assert carclf(store, "predict", "-", "--output", output) == 65
    complete = output.read_bytes()
    table = pd.read_csv(output, keep_default_na=False)
    assert table["file"].tolist() == list(map(str, paths))
    assert table["class"].tolist()[:5] == validated[0]["predicted"].tolist()[:5]
    assert table["error"].astype(bool).tolist() == [False] * 6 + [True]
    for cut in (0, 3, len(complete) // 2, len(complete) - 1, len(complete)):
        output.write_bytes(complete[:cut])
        carclf(store, "predict", *paths, "--output", output)
        resumed = pd.read_csv(output, keep_default_na=False)
        pd.testing.assert_frame_equal(resumed, table, rtol=1e-5)


@pytest.mark.parametrize("content", ["important", "important\n", "file,model,class\n", "file,model\na,b\n"])
def test_another_file_is_not_overwritten(
    store: Store, validated: tuple[pd.DataFrame, list[Path]], tmp_path: Path, content: str
) -> None:
    (tmp_path / "notes.csv").write_text(content)
    assert carclf(store, "predict", validated[1][0], "--output", tmp_path / "notes.csv") == 78
    assert (tmp_path / "notes.csv").read_text() == content


def test_unreadable_files_are_named_and_the_others_are_predicted(
    store: Store, validated: tuple[pd.DataFrame, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/a.jpg").write_bytes(validated[1][0].read_bytes())
    (tmp_path / "inside/b\x1b[2J.jpg").write_bytes(b"not an image")
    (tmp_path / "inside/.hidden").write_bytes(b"")
    (tmp_path / "inside/Thumbs.db").write_bytes(b"")
    assert carclf(store, "predict", tmp_path / "inside", tmp_path / "gone.jpg", "--run", "seed-0", "--top", "2") == 65
    output = capsys.readouterr()
    first, second, third = output.out.splitlines()
    assert first.startswith(f"{tmp_path}/inside/a.jpg: class {validated[0]['predicted'][0]} ")
    assert first.count("class ") == 2
    assert second.startswith(f"{tmp_path}/inside/b\\x1b[2J.jpg: cannot be decoded: ")
    assert third == f"{tmp_path}/gone.jpg: cannot be read: No such file or directory"
    assert "2 of 3 files" in output.err and "Traceback" not in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "0" * 16, "run": "seed-0"}, "--model"),
        ({"key": "0" * 16}, "0000000000000000"),
        ({"key": "../x"}, "'../x'"),
        ({"run": "nobody"}, "nobody"),
    ],
)
def test_a_model_that_does_not_exist_raises_config_error(store: Store, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_model(store, **arguments)


def test_without_a_champion_a_model_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no champion yet"):
        select_model(open_store(str(tmp_path)))


def test_a_model_is_selected_by_key_by_run_or_as_the_champion(store: Store) -> None:
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
