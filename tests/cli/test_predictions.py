"""``carclf predictions``: plan and predict shards, and read the table as text, JSON, CSV and Parquet."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from color_champion import CLASS_NAMES, color_image, promote_color_champion

from carclf.cli.app import main
from carclf.services.storage import Store, init_store


@pytest.fixture
def store(tmp_path: Path) -> Store:  # one with trained runs is not needed
    store = init_store(str(tmp_path / "store"))
    promote_color_champion(store)
    return store


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.png").write_bytes(color_image(CLASS_NAMES[number % 3]))
    (folder / "dark.png").write_bytes(color_image("red", brightness=0.2))
    (folder / "bad.png").write_bytes(b"bad")
    monkeypatch.setenv("CARCLF_PREDICT_SOURCE", str(folder))
    return folder


def carclf(store: Store, *arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carclf", "predictions", *map(str, arguments), "--store", store.url])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_the_predictions_of_a_folder_are_shown_and_exported(
    store: Store, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carclf(store, "run", "--shard-size", "4") == 0
    assert capsys.readouterr().out == "9 images predicted, of which 1 are not readable\n"
    assert carclf(store, "show", "--json") == 0
    shown = {row["class"]: row["num_images"] for row in json.loads(capsys.readouterr().out)}
    assert shown == {"blue": 3, "red": 3, "green": 2, "(not readable)": 1}
    assert carclf(store, "show") == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "nan" not in lines["(not readable)"] and "cannot be decoded" in lines["(not readable)"]
    assert carclf(store, "show", "--uncertain", "1") == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "class", "probability"] and line.startswith("dark.png  red")
    for name in ("all.csv", "all.parquet"):
        assert carclf(store, "export", "--to", tmp_path / name) == 0
    table = pd.read_csv(tmp_path / "all.csv", dtype={"version": str})
    pd.testing.assert_frame_equal(
        table[["id", "version", "class"]], pd.read_parquet(tmp_path / "all.parquet")[["id", "version", "class"]])
    assert sorted(table["id"]) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "bad.png", "dark.png"]
    assert table.set_index("id").loc["bad.png", "problem"].startswith("cannot be decoded")
    assert carclf(store, "export", "--to", tmp_path / "all.xlsx") == 78


def test_the_number_of_images_that_were_left_is_printed(
    store: Store, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carclf(store, "plan") == 0
    capsys.readouterr()
    (images / "3.png").unlink()
    assert carclf(store, "run") == 0
    assert capsys.readouterr().out == "8 images predicted, of which 1 are not readable; 1 left for the next plan\n"


def test_the_steps_of_the_dag_return_their_results_as_json(
    store: Store, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    result = tmp_path / "result.json"
    assert carclf(store, "plan", "--shard-size", "3", "--max-groups", "2", "--result", result) == 0
    assert capsys.readouterr().out == "00001-00000,00001-00002\n00001-00001\n"
    planned = json.loads(result.read_text())
    assert planned["groups"] == [["00001-00000", "00001-00002"], ["00001-00001"]] and planned["num_new"] == 9
    for group in planned["groups"]:
        assert carclf(store, "shard", ",".join(group), "--model", planned["model"], "--result", result) == 0
    assert json.loads(result.read_text())["num_shards"] == 1
    assert carclf(store, "drift", "--result", result) == 0
    drift = json.loads(result.read_text())
    assert sorted(drift) == ["drift", "measure", "num_images", "verdict"] and drift["num_images"] == 8
    capsys.readouterr()
    caplog.clear()
    assert carclf(store, "drift") == 0
    assert capsys.readouterr().out.startswith("drift ")
    assert not [record for record in caplog.records if "drift" in record.message]
    assert carclf(store, "shard", "1-2") == 78


def test_a_check_of_the_store_reports_a_damaged_shard(
    store: Store, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carclf(store, "run") == 0
    [path] = Path(store.url, "batch_predictions").rglob("00001-00000.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["carclf", "store", "check", "--store", store.url])
        main()
    assert ended.value.code == 65
    assert path.name in capsys.readouterr().out


def test_without_a_source_or_a_champion_nothing_is_planned(tmp_path: Path, images: Path) -> None:
    assert carclf(init_store(str(tmp_path / "empty")), "plan") == 66
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CARCLF_PREDICT_SOURCE")
        assert carclf(init_store(str(tmp_path / "empty")), "plan") == 2


def test_confident_images_become_class_folders(
    store: Store, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carclf(store, "run") == 0
    assert carclf(store, "pseudo-labels", "--to", tmp_path / "sure", "--min-probability", "0.6") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    folders = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "sure").iterdir()}
    assert lines == [["class", "num_images"], *([name, str(num)] for name, num in sorted(folders.items()))]
    assert sum(folders.values()) >= 7
    assert carclf(store, "pseudo-labels", "--to", tmp_path / "none", "--min-probability", "1") == 65
    assert not (tmp_path / "none").exists()
