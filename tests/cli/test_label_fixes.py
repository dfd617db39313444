"""carclf label-fixes: what it chooses, how it merges, and what it tells."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from carclf.artifacts import Audit, Dataset, Metrics, Provenance, build
from carclf.audit.auditor import NETWORK_SETTINGS
from carclf.cli.app import app
from carclf.cli.label_fixes import merge_fixes
from carclf.config import load_config
from carclf.dataset.fixes import LabelFix, read_fixes
from carclf.errors import CarclfError, ConfigError, DataError
from carclf.runs.run import Run
from carclf.services.storage import Store, open_store

SUSPECTS = pd.DataFrame({
    "id": ["a.jpg", "b,\"1\".jpg", "c.jpg", "d.jpg"], "path": "", "label": [0, 1, 2, 0], "suggested_label": [1, 2, 0, 3],
    "label_quality": [0.01, 0.02, 0.03, 0.9], "is_suspect": [True, True, True, False],
})

INDEX = SUSPECTS.assign(path="train/0/" + SUSPECTS["id"], source="train", problem_kind="", problem="",
                        sha256=[digit * 64 for digit in "abcd"])[
    ["id", "path", "label", "source", "sha256", "problem_kind", "problem"]]
HEADER = "id,action,label,sha256\n"
A, B, C = (f"{sha256}\n" for sha256 in INDEX["sha256"][:3])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with an audited run ``r``, and one that was not audited, ``plain``."""
    own = open_store(str(tmp_path / "store"))

    def make(folder: Path) -> Metrics:
        SUSPECTS.to_parquet(folder / "suspects.parquet")
        return {}

    audit, _ = build(Audit, make, Provenance(1, {}, {}), own)
    data, _ = build(Dataset, lambda folder: INDEX.to_parquet(folder / "index.parquet") or {}, Provenance(1, {}, {}), own)
    Run.start_or_resume("plain", own, "demo", load_config("demo"))
    run = Run.start_or_resume("r", own, "demo", load_config("demo"))
    run.record["stages"] = {"validate": {"key": data.key},
                            "train_head": {"key": "k", "metrics": {"audit": audit.key}}}
    own.write("runs/r.json", json.dumps(run.record).encode())
    return own


def asked(store: Store, *arguments: str) -> str:
    """What the command prints; raises what it raises."""
    done = CliRunner().invoke(app, ["label-fixes", "--store", store.url, *arguments])
    if isinstance(done.exception, CarclfError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def text(store: Store) -> str:
    return store.read("label_fixes.csv").data.decode()


def test_without_a_choice_the_suspects_are_listed_and_nothing_is_written(store: Store) -> None:
    assert asked(store, "--run", "r").splitlines() == [
        "   1. a.jpg: 0, rather 1 (score 0.010)", "   2. b,\"1\".jpg: 1, rather 2 (score 0.020)",
        "   3. c.jpg: 2, rather 0 (score 0.030)",
        "3 suspects, of which many are right; nothing was written. Look at the run's report, then write those that are "
        "wrong with --id ID, or the first N with --top N; --drop leaves them out instead.",
    ]
    assert len(asked(store, "--run", "r", "--top", "1", "--show").splitlines()) == 2
    assert store.read("label_fixes.csv") is None


def test_a_run_that_drift_stopped_has_its_splits_audit_of_its_own_network_where_there_is_one(store: Store) -> None:
    run = Run.start_or_resume("stopped", store, "demo", load_config("demo", {"seed": 3}))
    run.record["stages"]["split"] = {"key": "s"}
    store.write("runs/stopped.json", json.dumps(run.record).encode())
    own = {name: run.config.model.model_dump()[name] for name in NETWORK_SETTINGS}
    with pytest.raises(ConfigError, match="has no audit"):
        asked(store, "--run", "stopped")
    for split, network, seed, name in (
        ("s", own | {"backbone": "Other", "image_width": 7}, 3, "another network"),
        ("s", own, 4, "another seed"), ("s", own, 3, "its own"), ("other", own, 3, "another split"),
    ):
        one = SUSPECTS.head(1).assign(id=name)
        build(Audit, lambda folder, one=one: one.to_parquet(folder / "suspects.parquet") or {}, Provenance(1, {"split": split}, {"network": network, "seed": seed, "salt": ""}), store)
        if split == "s":
            assert f" {name}: 0, rather 1" in asked(store, "--run", "stopped")
    assert " its own: 0" in asked(store, "--run", "stopped")


def test_the_first_suspects_and_named_ones_are_written_and_read_back(store: Store) -> None:
    told = asked(store, "--run", "r", "--top", "2")
    assert text(store) == f'{HEADER}a.jpg,relabel,1,{A}"b,""1"".jpg",relabel,2,{B}'
    assert told.splitlines()[0] == "wrote  a.jpg: relabel to 1"
    assert told.splitlines()[-1] == f"2 fixes written to {store.url}/label_fixes.csv, 0 were there. The next run " \
        "applies them."
    asked(store, "--run", "r", "--id", "c.jpg", "--drop")
    assert text(store).endswith(f"c.jpg,drop,,{C}")
    assert [(fix.id, fix.action, fix.label, fix.sha256) for fix in read_fixes(store).entries] == [
        ("a.jpg", "relabel", 1, "a" * 64), ('b,"1".jpg', "relabel", 2, "b" * 64), ("c.jpg", "drop", None, "c" * 64)]


def test_what_a_user_wrote_is_kept_and_a_second_time_changes_nothing(store: Store) -> None:
    store.write("label_fixes.csv", b"id,action,label\nz.jpg,relabel,2\na.jpg,drop,\n")
    told = asked(store, "--run", "r", "--top", "2")
    assert "kept   a.jpg: drop" in told and "wrote  b" in told and "1 fixes written" in told
    once = text(store)
    assert once == f'{HEADER}z.jpg,relabel,2,\na.jpg,drop,,\n"b,""1"".jpg",relabel,2,{B}'
    assert "0 fixes written" in asked(store, "--run", "r", "--top", "2") and text(store) == once
    asked(store, "--run", "r", "--top", "1", "--replace")
    assert text(store) == once.replace("a.jpg,drop,,\n", f"a.jpg,relabel,1,{A}")


def test_a_users_own_file_is_checked_and_merged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("id,action,label\nx.jpg,relabel,2\ny.jpg,drop,\n")
    asked(store, "--file", str(tmp_path / "own.csv"))
    assert text(store) == "id,action,label\nx.jpg,relabel,2\ny.jpg,drop,\n"
    asked(store, "--run", "r", "--top", "1", "--file", str(tmp_path / "own.csv"))
    assert text(store) == f"{HEADER}x.jpg,relabel,2,\ny.jpg,drop,,\na.jpg,relabel,1,{A}"
    (tmp_path / "own.csv").write_text("id,action,label\nx.jpg,rename,3\n")
    with pytest.raises(DataError, match=r"own\.csv: line 2: invalid action 'rename' with label '3'"):
        asked(store, "--file", str(tmp_path / "own.csv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --run with the run whose suspects are meant, or --file"),
        (["--run", "none"], "There is no run 'none'"),
        (["--run", "plain"], "has no audit. Run it first: carclf train_head --run plain"),
        (["--run", "r", "--id", "d.jpg"], "'d.jpg' is not among the 3 suspects"),
        (["--file", "fixes.csv", "--show"], "Give --run with the run whose suspects are meant"),
        (["--run", "r", "--id", "a.jpg", "--id", "a.jpg", "--file", "fixes.csv"], "'a.jpg' is wanted twice"),
        (["--file", "/nowhere.csv"], "--file: /nowhere.csv cannot be read: No such file"),
    ],
)
def test_a_users_mistake_is_told_and_nothing_is_written(
    store: Store, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fixes.csv").write_text("id,action,label\na.jpg,drop,\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=None) as error:
        asked(store, *arguments)
    assert message in str(error.value) and store.read("label_fixes.csv") is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.jpg,relabel,77\n", "unknown class 77. The classes are 0, 1, 2"),
        ("a.jpg,drop,\ntrain/0/a.jpg,drop,\n", r"lines 3 and 4: both match the image train/0/a\.jpg"),
        ("train/0/d.jpg,drop,\n", r"lines 2 and 3: both match the image train/0/d\.jpg"),
    ],
)
def test_with_a_run_what_would_stop_every_later_one_is_not_written(
    store: Store, tmp_path: Path, lines: str, message: str
) -> None:
    store.write("label_fixes.csv", before := b"id,action,label\nd.jpg,relabel,1\n")
    (tmp_path / "own.csv").write_text(f"id,action,label\n{lines}")
    with pytest.raises(DataError, match=f"Nothing was written, since every run would stop at it: .*{message}"):
        asked(store, "--run", "r", "--file", str(tmp_path / "own.csv"))
    assert store.read("label_fixes.csv").data == before


def test_a_line_that_means_another_content_gives_way_to_the_picture_that_has_its_name_now(store: Store) -> None:
    store.write("label_fixes.csv", f"{HEADER}a.jpg,drop,,{'0' * 64}\n".encode())
    asked(store, "--run", "r", "--top", "1")
    assert text(store) == f"{HEADER}a.jpg,relabel,1,{A}"


def test_a_malformed_file_in_the_store_is_never_overwritten(store: Store) -> None:
    store.write("label_fixes.csv", b"id,action\n")
    with pytest.raises(DataError, match=r"label_fixes\.csv: the header"):
        asked(store, "--run", "r", "--top", "1")
    assert text(store) == "id,action\n"


def test_users_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    fixes = [LabelFix(0, f"{n}.jpg", "relabel", n) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda fix: merge_fixes(store, [fix], replace=False), fixes))
    assert {fix.id for fix in read_fixes(store).entries} == {fix.id for fix in fixes}
