"""The split stage and the champion's split, on artifacts in a folder store."""

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
from carclf.dataset.champion_split import previous_values
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store, open_store
from carclf.stages.split import split

CONFIG = load_config("demo")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def rows_of(names: range, *, label: int | None = None) -> pd.DataFrame:
    """Usable rows with hashes far from each other."""
    digests = [hashlib.sha256(str(name).encode()).hexdigest() for name in names]
    return pd.DataFrame({
        "id": [f"{name}.jpg" for name in names], "path": [f"train/{name % 3}/{name}.jpg" for name in names],
        "label": [name % 3 if label is None else label for name in names], "problem": "", "source": "train",
        "sha256": digests, "pixels_sha256": digests,
        "phash": np.array([int(digest[:16], 16) for digest in digests], np.uint64),
        "cluster": list(names),
    })


def dataset(store: Store, index: pd.DataFrame) -> Dataset:
    def make(folder: Path) -> Metrics:
        index.to_parquet(folder / "index.parquet", index=False)
        return {}

    settings = {"rows": hashlib.sha256(index.to_json().encode()).hexdigest()}
    return build(Dataset, make, Provenance(1, {}, settings), store)[0]


def crown(store: Store, own: Split) -> None:
    """A model of this split wins, whatever the one before it would answer on it."""
    config = load_config("demo", {"gate.champion_rule": "off"})
    build_candidate(store, own.key, split=own).promote(store, config)
    assert champion_split(store) == own


def run(store: Store, data: Dataset, config: Config = CONFIG, salt: str = "") -> tuple[Split, bool]:
    return split(data, champion_split(store), StageContext(store, config, salt))


def rows(store: Store, own: Split) -> pd.DataFrame:
    return pd.read_parquet(own.path(store, "split.parquet"))


def sides(store: Store, own: Split) -> dict[str, str]:
    found = rows(store, own)
    return dict(zip(found["id"], found["subset"], strict=True))


def test_a_run_on_unchanged_data_reuses_its_split_after_it_won_and_each_time_after_that(store: Store) -> None:
    first_data, more_data = dataset(store, rows_of(range(90))), dataset(store, rows_of(range(150)))
    first, reused = run(store, first_data)
    assert not reused and run(store, first_data) == (first, True)
    crown(store, first)
    assert run(store, first_data) == (first, True)
    second, reused = run(store, more_data)
    assert not reused and second.inputs == {"dataset": more_data.key, "champion": first.key}
    assert run(store, more_data) == (second, True)  # it was refused, or is still training
    crown(store, second)
    assert run(store, more_data) == (second, True)


def test_new_data_and_another_seed_move_no_picture_that_the_champion_knows(store: Store) -> None:
    first, _ = run(store, dataset(store, rows_of(range(90))))
    crown(store, first)
    second, _ = run(store, dataset(store, rows_of(range(30, 200))), load_config("demo", {"seed": 7}))
    old, new = sides(store, first), sides(store, second)
    assert all(new[name] == old[name] for name in old if name in new) and len(new) == 170
    assert second.metrics["num_champion_train_in_val"] == 0
    assert abs(second.metrics["num_val"] - 170 * CONFIG.split.val_fraction) <= 3


def test_pictures_that_were_saved_again_keep_the_side_that_the_champion_knows(store: Store) -> None:
    index = rows_of(range(90))
    first, _ = run(store, dataset(store, index))
    crown(store, first)
    again = rows_of(range(500, 590)).assign(phash=index["phash"] ^ np.uint64(1 << 40 | 0b1011), label=index["label"])
    more = pd.concat([again, rows_of(range(900, 930))], ignore_index=True)
    second, _ = run(store, dataset(store, more), load_config("demo", {"seed": 7}))
    old, new = sides(store, first), sides(store, second)
    assert [new[f"{name + 500}.jpg"] for name in range(90)] == [old[f"{name}.jpg"] for name in range(90)]
    assert second.metrics["num_champion_train_in_val"] == 0


def test_flat_pictures_are_not_taken_for_each_other(store: Store) -> None:
    flat = rows_of(range(90)).assign(phash=np.uint64(0))
    first, _ = run(store, dataset(store, flat))
    crown(store, first)
    old, new = rows(store, first), rows_of(range(90, 180)).assign(phash=np.uint64(0))
    assert previous_values(new, old, "subset").isna().all()


def test_the_report_counts_what_trained_the_champion_and_was_saved_again(store: Store) -> None:
    data, settings = dataset(store, rows_of(range(90))), {"split.num_folds": 3}
    first, _ = run(store, data, load_config("demo", settings))
    crown(store, first)
    again = rows_of(range(500, 590)).assign(phash=rows_of(range(90))["phash"] ^ np.uint64(0b101))
    other, _ = run(store, dataset(store, again), load_config("demo", settings | {"split.fold": 1}))
    assert other.metrics["num_champion_train_in_val"] == other.metrics["num_val"] == 30


def test_force_makes_another_split_with_the_champions_sides(store: Store) -> None:
    data = dataset(store, rows_of(range(90)))
    first, _ = run(store, data)
    crown(store, first)
    forced, reused = run(store, data, salt="r1")
    assert not reused and forced.key != first.key and sides(store, forced) == sides(store, first)


def test_a_champions_split_that_is_gone_stops_the_run(store: Store, tmp_path: Path) -> None:
    data = dataset(store, rows_of(range(90)))
    first, _ = run(store, data)
    crown(store, first)
    (tmp_path / "store" / "splits" / first.key / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"is gone from .*Restore splits/{first.key}"):
        run(store, data)


def test_the_leak_report_names_what_a_split_lets_through(store: Store) -> None:
    index = rows_of(range(90))
    first, _ = run(store, dataset(store, index))
    crown(store, first)
    old = sides(store, first)
    train, val = (next(name for name in old if old[name] == side) for side in ("train", "val"))
    near = index.set_index("id")["phash"][train] ^ np.uint64(0b1011)
    index.loc[index["id"] == val, "phash"] = near
    test = rows_of(range(1000, 1003), label=-1)
    test.loc[0, "cluster"] = index.set_index("id")["cluster"][train]
    test.loc[1, "cluster"] = index.set_index("id")["cluster"][val]
    second, _ = run(store, dataset(store, pd.concat([index, test], ignore_index=True)))
    leaks = json.loads(second.path(store, "leaks.json").read_text())
    assert leaks == {"clusters_in_train_and_val": [], "champion_train_in_val": [], "test_copies_in_train": ["1000.jpg"],
                     "val_train_hash_matches": [{"id": val, "train_id": train, "distance": 3}]}
    assert second.metrics == {
        "num_train": first.metrics["num_train"], "num_val": first.metrics["num_val"], "num_excluded": 0,
        "num_clusters_in_train_and_val": 0, "num_champion_train_in_val": 0, "num_test_copies_in_train": 1,
        "class_names": [0, 1, 2],
    }


def test_folds_stay_put_and_the_report_counts_the_champions_training_pictures_among_them(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    data, settings = dataset(store, rows_of(range(90))), {"split.num_folds": 3}
    first, _ = run(store, data, load_config("demo", settings))
    crown(store, first)
    assert run(store, data, load_config("demo", settings)) == (first, True)
    other, _ = run(store, dataset(store, rows_of(range(120))), load_config("demo", settings | {"split.fold": 1, "seed": 3}))
    both = rows(store, first).merge(rows(store, other), on="id")
    assert (both["fold_x"] == both["fold_y"]).all() and len(both) == 90
    assert (first.metrics["num_val"], other.metrics["num_val"]) == (30, 40)
    assert other.metrics["num_champion_train_in_val"] == 30
    assert "30 of the validation pictures trained the champion" in caplog.text
    holdout, _ = run(store, data)
    assert sides(store, holdout) == sides(store, first)


@pytest.mark.parametrize("settings", [{"num_folds": 1}, {"num_folds": 3, "fold": 3}, {"fold": 1}])
def test_a_fold_that_there_is_not_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="give 0 folds and fold 0, or at least 2 folds"):
        load_config("demo", {f"split.{name}": value for name, value in settings.items()})


def test_a_split_imports_no_training_framework() -> None:
    code = ("import sys, carclf.stages.split, carclf.dataset.splits, carclf.dataset.leaks, carclf.dataset.duplicates; "
            "print({'tensorflow', 'keras'} & set(sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_what_an_earlier_champion_knew_keeps_its_side_also_after_it_was_away_for_a_champion(store: Store) -> None:
    first, _ = run(store, dataset(store, rows_of(range(120))))
    crown(store, first)
    second, _ = run(store, dataset(store, rows_of(range(60))))
    crown(store, second)
    third, _ = run(store, dataset(store, rows_of(range(180))), load_config("demo", {"seed": 5}))
    assert len(rows(store, second)) == 60 and third.metrics["num_champion_train_in_val"] == 0
    assert sides(store, third).items() >= sides(store, first).items()
