"""``carclf label-fixes``: selection of suspects, merging of fixes, and output."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from carclf.artifacts import Audit, Dataset, Metrics, Provenance, build
from carclf.audit.auditor import NETWORK_SETTINGS
from carclf.cli.app import app
from carclf.cli.label_fixes import merge_fixes, read_suspects, select_fixes, suspect_lines
from carclf.config import load_config
from carclf.dataset.fixes import LabelFix, read_fixes
from carclf.errors import CarclfError, ConfigError, DataError
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store

SUSPECTS = pd.DataFrame({
    "id": ["a.jpg", "b,\"1\".jpg", "c.jpg", "d.jpg"], "path": "", "subset": ["train", "train", "excluded", "train"],
    "label": ["0", "1", "2", "0"], "suggested_label": ["1", "2", "0", "3"],
    "label_quality": [0.01, 0.02, 0.03, 0.9], "is_suspect": [True, True, True, False],
})

INDEX = SUSPECTS.assign(path="train/0/" + SUSPECTS["id"], source="train", problem_kind="", problem="",
                        sha256=[digit * 64 for digit in "abcd"])[
    ["id", "path", "label", "source", "sha256", "problem_kind", "problem"]]
HEADER = "id,action,label,sha256\n"
A, B, C = (f"{sha256}\n" for sha256 in INDEX["sha256"][:3])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the audited run ``r`` and the run ``plain`` without an audit."""
    store = init_store(str(tmp_path / "store"))

    def make(folder: Path) -> Metrics:
        SUSPECTS.to_parquet(folder / "suspects.parquet")
        return {}

    def make_index(folder: Path) -> Metrics:
        INDEX.to_parquet(folder / "index.parquet")
        return {}

    audit, _ = build(Audit, make, Provenance(1, {}, {}), store)
    data, _ = build(Dataset, make_index, Provenance(1, {}, {}), store)
    Run.start_or_resume("plain", store, "demo", load_config("demo"))
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    run.record["stages"] = {"validate": {"key": data.key},
                            "train_head": {"key": "k", "metrics": {"audit": audit.key}}}
    store.write("runs/r.json", json.dumps(run.record).encode())
    return store


def label_fixes(store: Store, *arguments: str) -> str:
    """Return the output of the command; raise its error."""
    result = CliRunner().invoke(app, ["label-fixes", "--store", store.url, *arguments])
    if isinstance(result.exception, CarclfError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def csv_text(store: Store) -> str:
    return store.read("label_fixes.csv").data.decode()


def test_without_a_selection_the_suspects_are_listed(store: Store) -> None:
    *suspects, hint = label_fixes(store, "--run", "r").splitlines()
    assert suspects == [
        "   1. a.jpg (train): label 0, suggested 1 (label quality 0.010)",
        "   2. b,\"1\".jpg (train): label 1, suggested 2 (label quality 0.020)",
        "   3. c.jpg (excluded): label 2, suggested 0 (label quality 0.030)",
    ]
    assert hint.startswith("3 suspects") and "--id ID" in hint
    assert len(label_fixes(store, "--run", "r", "--top", "1", "--show").splitlines()) == 2
    assert store.read("label_fixes.csv") is None


def test_a_run_that_drift_stopped_uses_the_most_similar_audit_of_its_split(store: Store) -> None:
    run = Run.start_or_resume("stopped", store, "demo", load_config("demo", {"seed": 3}))
    run.record["stages"]["split"] = {"key": "s"}
    store.write("runs/stopped.json", json.dumps(run.record).encode())
    network = {name: run.config.model.model_dump()[name] for name in NETWORK_SETTINGS}
    with pytest.raises(ConfigError, match="has no audit"):
        label_fixes(store, "--run", "stopped")
    for split, audited_network, seed, name in (
        ("s", network | {"backbone": "Other", "image_width": 7}, 3, "another network"),
        ("s", network, 4, "another seed"), ("s", network, 3, "equal"), ("other", network, 3, "another split"),
    ):
        suspect = SUSPECTS.head(1).assign(id=name)

        def make(folder: Path, suspect: pd.DataFrame = suspect) -> Metrics:
            suspect.to_parquet(folder / "suspects.parquet")
            return {}

        settings = {"network": audited_network, "seed": seed, "salt": ""}
        build(Audit, make, Provenance(1, {"split": split}, settings), store)
        if split == "s":
            assert f" {name} (train): label 0" in label_fixes(store, "--run", "stopped")
    assert " equal (train): label 0" in label_fixes(store, "--run", "stopped")


def test_fixes_are_written_for_the_first_and_the_named_suspects(store: Store) -> None:
    printed = label_fixes(store, "--run", "r", "--top", "2")
    assert csv_text(store) == f'{HEADER}a.jpg,relabel,1,{A}"b,""1"".jpg",relabel,2,{B}'
    lines = printed.splitlines()
    assert lines[0] == "wrote  a.jpg: relabel to 1"
    assert lines[-1].startswith(f"{store.url}/label_fixes.csv: 2 fixes written, 0 existing ones kept.")
    label_fixes(store, "--run", "r", "--id", "c.jpg", "--drop")
    assert csv_text(store).endswith(f"c.jpg,drop,,{C}")
    assert [(fix.id, fix.action, fix.label, fix.sha256) for fix in read_fixes(store).entries] == [
        ("a.jpg", "relabel", "1", "a" * 64), ('b,"1".jpg', "relabel", "2", "b" * 64), ("c.jpg", "drop", None, "c" * 64)]


@pytest.mark.parametrize("action", [[], ["--drop"]])
def test_a_validation_image_is_only_fixed_by_a_persons_row(store: Store, tmp_path: Path, action: list[str]) -> None:
    suspects = read_suspects(Run.load("r", store)).assign(subset=["val", "train", "val"])
    assert [fix.id for fix in select_fixes(suspects, 3, [], drop=bool(action))] == ['b,"1".jpg']
    with pytest.raises(ConfigError, match=r"'c\.jpg' is a validation image.*--file"):
        select_fixes(suspects, 0, ["c.jpg"], drop=bool(action))
    assert "1. a.jpg (val): label 0" in next(suspect_lines(suspects, 3))
    (tmp_path / "fixes.csv").write_text("id,action,label\na.jpg,relabel,2\n")
    label_fixes(store, "--file", str(tmp_path / "fixes.csv"))
    assert read_fixes(store).entries[0].label == "2"


def test_existing_fixes_are_kept_unless_they_are_replaced(store: Store) -> None:
    store.write("label_fixes.csv", b"id,action,label\nz.jpg,relabel,2\na.jpg,drop,\n")
    printed = label_fixes(store, "--run", "r", "--top", "2")
    assert "kept   a.jpg: drop" in printed and "wrote  b" in printed and "1 fix written" in printed
    once = csv_text(store)
    assert once == f'{HEADER}z.jpg,relabel,2,\na.jpg,drop,,\n"b,""1"".jpg",relabel,2,{B}'
    assert "0 fixes written" in label_fixes(store, "--run", "r", "--top", "2") and csv_text(store) == once
    label_fixes(store, "--run", "r", "--top", "1", "--replace")
    assert csv_text(store) == once.replace("a.jpg,drop,,\n", f"a.jpg,relabel,1,{A}")


def test_the_fixes_of_a_file_are_checked_and_merged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "fixes.csv").write_text("id,action,label\nx.jpg,relabel,2\ny.jpg,drop,\n")
    label_fixes(store, "--file", str(tmp_path / "fixes.csv"))
    assert csv_text(store) == "id,action,label\nx.jpg,relabel,2\ny.jpg,drop,\n"
    label_fixes(store, "--run", "r", "--top", "1", "--file", str(tmp_path / "fixes.csv"))
    assert csv_text(store) == f"{HEADER}x.jpg,relabel,2,\ny.jpg,drop,,\na.jpg,relabel,1,{A}"
    (tmp_path / "fixes.csv").write_text("id,action,label\nx.jpg,rename,3\n")
    with pytest.raises(DataError, match=r"fixes\.csv: line 2: .*'rename'"):
        label_fixes(store, "--file", str(tmp_path / "fixes.csv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run"),
        (["--run", "none"], "There is no run 'none'"),
        (["--run", "plain"], "carclf train_head --run plain"),
        (["--run", "r", "--id", "d.jpg"], "'d.jpg' is not among the 3 suspects"),
        (["--file", "fixes.csv", "--show"], "--run"),
        (["--run", "r", "--id", "a.jpg", "--id", "a.jpg", "--file", "fixes.csv"], "'a.jpg' has two fixes"),
        (["--file", "/nowhere.csv"], "--file: cannot read /nowhere.csv: No such file"),
    ],
)
def test_an_invalid_option_raises_config_error_and_writes_nothing(
    store: Store, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fixes.csv").write_text("id,action,label\na.jpg,drop,\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        label_fixes(store, *arguments)
    assert store.read("label_fixes.csv") is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.jpg,relabel,77\n", "class '77'"),
        ("a.jpg,drop,\ntrain/0/a.jpg,drop,\n", r"lines 3 and 4: .*train/0/a\.jpg"),
        ("train/0/d.jpg,drop,\n", r"lines 2 and 3: .*train/0/d\.jpg"),
    ],
)
def test_fixes_that_cannot_be_applied_to_the_run_are_not_written(
    store: Store, tmp_path: Path, lines: str, message: str
) -> None:
    store.write("label_fixes.csv", before := b"id,action,label\nd.jpg,relabel,1\n")
    (tmp_path / "fixes.csv").write_text(f"id,action,label\n{lines}")
    with pytest.raises(DataError, match=f"No fix was written.*{message}"):
        label_fixes(store, "--run", "r", "--file", str(tmp_path / "fixes.csv"))
    assert store.read("label_fixes.csv").data == before


def test_a_fix_for_changed_content_is_replaced(store: Store) -> None:
    store.write("label_fixes.csv", f"{HEADER}a.jpg,drop,,{'0' * 64}\n".encode())
    label_fixes(store, "--run", "r", "--top", "1")
    assert csv_text(store) == f"{HEADER}a.jpg,relabel,1,{A}"


def test_a_malformed_file_in_the_store_is_never_overwritten(store: Store) -> None:
    store.write("label_fixes.csv", b"id,action\n")
    with pytest.raises(DataError, match=r"label_fixes\.csv"):
        label_fixes(store, "--run", "r", "--top", "1")
    assert csv_text(store) == "id,action\n"


def test_concurrent_writes_lose_no_fix(tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "store"))
    fixes = [LabelFix(0, f"{n}.jpg", "relabel", str(n)) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda fix: merge_fixes(store, [fix], replace_existing=False), fixes))
    assert {fix.id for fix in read_fixes(store).entries} == {fix.id for fix in fixes}
