"""The split stage: reuse, and subsets that follow the champion's split."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gate_candidates import build_candidate

from carclf.artifacts import Dataset, Metrics, Provenance, Split, StageContext, build
from carclf.champion import champion_split
from carclf.config import Config, load_config
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store, open_store
from carclf.stages.split import split

CONFIG = load_config("demo")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def index_rows(names: range, *, label: str | None = None) -> pd.DataFrame:
    """Usable images with hashes far apart from each other."""
    digests = [hashlib.sha256(str(name).encode()).hexdigest() for name in names]
    return pd.DataFrame({
        "id": [f"{name}.jpg" for name in names], "path": [f"train/{name % 3}/{name}.jpg" for name in names],
        "label": [str(name % 3) if label is None else label for name in names], "problem": "", "source": "train",
        "sha256": digests, "pixels_sha256": digests, "color_signature": [bytes(range(192))] * len(names),
        "phash": np.array([int(digest[:16], 16) for digest in digests], np.uint64),
        "cluster": list(names), "group": "",
    })


def build_dataset(store: Store, index: pd.DataFrame) -> Dataset:
    def make(folder: Path) -> Metrics:
        index.to_parquet(folder / "index.parquet", index=False)
        return {}

    settings = {"rows": hashlib.sha256(pd.util.hash_pandas_object(index).to_numpy().tobytes()).hexdigest()}
    return build(Dataset, make, Provenance(1, {}, settings), store)[0]


def promote(store: Store, champion: Split) -> None:
    """Make a model of this split the champion, whatever its accuracy."""
    config = load_config("demo", {"gate.champion_rule": "off"})
    build_candidate(store, champion.key, split=champion).promote(store, config)
    assert champion_split(store) == champion


def run_split(store: Store, data: Dataset, config: Config = CONFIG, salt: str = "") -> tuple[Split, bool]:
    return split(data, champion_split(store), StageContext(store, config, salt))


def subsets_by_id(store: Store, artifact: Split) -> dict[str, str]:
    rows = artifact.rows(store)
    return dict(zip(rows["id"], rows["subset"], strict=True))


def test_unchanged_data_reuse_the_split_before_and_after_promotion(store: Store) -> None:
    first_data, more_data = build_dataset(store, index_rows(range(90))), build_dataset(store, index_rows(range(150)))
    first, reused = run_split(store, first_data)
    assert not reused
    assert run_split(store, first_data) == (first, True)
    promote(store, first)
    assert run_split(store, first_data) == (first, True)
    second, reused = run_split(store, more_data)
    assert not reused
    assert second.inputs == {"dataset": more_data.key, "champion": first.key}
    assert run_split(store, more_data) == (second, True)  # its model was rejected, or is still being trained
    promote(store, second)
    assert run_split(store, more_data) == (second, True)


def test_new_data_and_another_seed_do_not_move_the_champions_images(store: Store) -> None:
    first, _ = run_split(store, build_dataset(store, index_rows(range(90))))
    promote(store, first)
    second, _ = run_split(store, build_dataset(store, index_rows(range(30, 200))), load_config("demo", {"seed": 7}))
    old, new = subsets_by_id(store, first), subsets_by_id(store, second)
    assert all(new[name] == old[name] for name in old if name in new)
    assert len(new) == 170
    assert second.number("num_champion_train_in_val") == 0
    assert abs(second.number("num_val") - 170 * CONFIG.split.val_fraction) <= 3


def test_reencoded_images_keep_the_champions_subset(store: Store) -> None:
    index = index_rows(range(90))
    first, _ = run_split(store, build_dataset(store, index))
    promote(store, first)
    reencoded = index_rows(range(500, 590)).assign(
        phash=index["phash"] ^ np.uint64(1 << 40 | 0b1011), label=index["label"])
    more = pd.concat([reencoded, index_rows(range(900, 930))], ignore_index=True)
    second, _ = run_split(store, build_dataset(store, more), load_config("demo", {"seed": 7}))
    old, new = subsets_by_id(store, first), subsets_by_id(store, second)
    assert [new[f"{name + 500}.jpg"] for name in range(90)] == [old[f"{name}.jpg"] for name in range(90)]
    assert second.number("num_champion_train_in_val") == 0


def test_the_leak_report_counts_reencoded_images_that_the_champion_was_trained_on(store: Store) -> None:
    data, settings = build_dataset(store, index_rows(range(90))), {"split.num_folds": 3}
    first, _ = run_split(store, data, load_config("demo", settings))
    promote(store, first)
    reencoded = index_rows(range(500, 590)).assign(phash=index_rows(range(90))["phash"] ^ np.uint64(0b101))
    other_fold = load_config("demo", settings | {"split.fold": 1})
    other, _ = run_split(store, build_dataset(store, reencoded), other_fold)
    assert other.number("num_champion_train_in_val") == other.number("num_val") == 30


def test_force_creates_a_new_split_with_the_champions_subsets(store: Store) -> None:
    data = build_dataset(store, index_rows(range(90)))
    first, _ = run_split(store, data)
    promote(store, first)
    forced, reused = run_split(store, data, salt="r1")
    assert not reused
    assert forced.key != first.key
    assert subsets_by_id(store, forced) == subsets_by_id(store, first)


def test_a_missing_split_of_the_champion_raises_data_error(store: Store, tmp_path: Path) -> None:
    data = build_dataset(store, index_rows(range(90)))
    first, _ = run_split(store, data)
    promote(store, first)
    (tmp_path / "store" / "splits" / first.key / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"splits/{first.key}"):
        run_split(store, data)


def test_the_leak_report_lists_copies_across_subsets(store: Store) -> None:
    index = index_rows(range(90))
    first, _ = run_split(store, build_dataset(store, index))
    promote(store, first)
    old = subsets_by_id(store, first)
    train, val = (next(name for name in old if old[name] == subset) for subset in ("train", "val"))
    index.loc[index["id"] == val, "phash"] = index.set_index("id")["phash"][train] ^ np.uint64(0b1011)
    test = index_rows(range(1000, 1003), label="")
    test.loc[0, "cluster"] = index.set_index("id")["cluster"][train]
    test.loc[1, "cluster"] = index.set_index("id")["cluster"][val]
    second, _ = run_split(store, build_dataset(store, pd.concat([index, test], ignore_index=True)))
    leaks = json.loads(second.path(store, "leaks.json").read_text())
    assert leaks == {"clusters_in_train_and_val": [], "groups_in_train_and_val": [], "champion_train_in_val": [],
                     "champion_train_in_holdout": [], "test_copies_in_train": ["1000.jpg"],
                     "holdout_copies_in_train": [], "test_groups_in_train": [],
                     "val_train_hash_matches": [{"id": val, "train_id": train, "hash_distance": 3}]}
    assert second.metrics == dict.fromkeys(second.metrics, 0) | {
        "num_train": first.metrics["num_train"], "num_val": first.metrics["num_val"], "num_test_copies_in_train": 1,
        "class_names": ["0", "1", "2"], "metric": "accuracy",
    }


def test_folds_are_kept_and_training_images_of_the_champion_are_counted(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    data, settings = build_dataset(store, index_rows(range(90))), {"split.num_folds": 3}
    first, _ = run_split(store, data, load_config("demo", settings))
    promote(store, first)
    assert run_split(store, data, load_config("demo", settings)) == (first, True)
    other_fold = load_config("demo", settings | {"split.fold": 1, "seed": 3})
    other, _ = run_split(store, build_dataset(store, index_rows(range(120))), other_fold)
    both = first.rows(store).merge(other.rows(store), on="id")
    assert (both["fold_x"] == both["fold_y"]).all()
    assert len(both) == 90
    assert (first.number("num_val"), other.number("num_val")) == (30, 40)
    assert other.number("num_champion_train_in_val") == 30
    assert "30" in caplog.text
    holdout, _ = run_split(store, data)
    assert subsets_by_id(store, holdout) == subsets_by_id(store, first)


@pytest.mark.parametrize("settings", [{"num_folds": 1}, {"num_folds": 3, "fold": 3}, {"fold": 1}])
def test_an_invalid_fold_is_rejected(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="fold"):
        load_config("demo", {f"split.{name}": value for name, value in settings.items()})


def test_the_split_stage_imports_no_training_framework() -> None:
    code = ("import sys, carclf.stages.split, carclf.dataset.splits, carclf.dataset.leaks, carclf.dataset.duplicates; "
            "print({'tensorflow', 'keras'} & set(sys.modules))")
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"


def test_images_missing_for_one_champion_keep_their_subset_afterwards(store: Store) -> None:
    first, _ = run_split(store, build_dataset(store, index_rows(range(120))))
    promote(store, first)
    second, _ = run_split(store, build_dataset(store, index_rows(range(60))))
    promote(store, second)
    third, _ = run_split(store, build_dataset(store, index_rows(range(180))), load_config("demo", {"seed": 5}))
    assert len(second.rows(store)) == 60
    assert third.number("num_champion_train_in_val") == 0
    assert subsets_by_id(store, third).items() >= subsets_by_id(store, first).items()


def test_given_validation_images_replace_the_fraction_but_not_folds(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    index = index_rows(range(90))
    index.loc[:9, "source"] = "val"
    index.loc[10:14, "source"] = "holdout"
    index.loc[14, "label"] = "unknown"
    data = build_dataset(store, index)
    caplog.set_level("INFO", "carclf")
    given, _ = run_split(store, data)
    assert [given.number(f"num_{subset}") for subset in ("train", "val", "excluded", "holdout")] == [75, 10, 0, 5]
    assert "num_given_val=10" in caplog.text
    assert given.class_names == ["0", "1", "2"]
    rows = given.rows(store).set_index("id")
    assert rows["class_index"]["14.jpg"] == -1
    assert rows["class_index"].dtype == np.int64
    with pytest.raises(ConfigError, match=r"split\.num_folds"):
        run_split(store, data, load_config("demo", {"split.num_folds": 3}))


def test_a_split_counts_groups_and_follows_a_champion_without_groups(store: Store) -> None:
    first, _ = run_split(store, build_dataset(store, index_rows(range(90))))
    grouped = index_rows(range(60)).assign(group=[f"driver {number // 2 % 5}" if number >= 40 else ""
                                                  for number in range(60)])
    is_new = grouped["group"] != ""
    grouped.loc[is_new, ["id", "sha256", "pixels_sha256"]] += "new"
    grouped.loc[is_new, "phash"] = ~grouped.loc[is_new, "phash"]
    second, _ = split(build_dataset(store, grouped), first, StageContext(store, CONFIG))
    old, new = subsets_by_id(store, first), subsets_by_id(store, second)
    assert all(new[name] == old[name] for name in old if name in new)
    assert (second.number("num_groups"), second.number("num_groups_in_train_and_val")) == (5, 0)
    history = second.history(store)
    assert set(history["label"]) == {"0", "1", "2"}
    assert len(history) == 110


def test_a_floor_of_an_unknown_class_is_rejected_before_training(store: Store) -> None:
    data = build_dataset(store, index_rows(range(90)))
    for _ in range(2):  # also if the split is reused
        with pytest.raises(ConfigError, match=r"gate\.min_recall_by_class.*Niva"):
            run_split(store, data, load_config("demo", {"gate.min_recall_by_class": "Niva=0.5"}))
    assert run_split(store, data, load_config("demo", {"gate.min_recall_by_class": "1=0.5"}))[1]
