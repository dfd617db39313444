"""``last``, ``champion`` and prefixes of run ids."""

from pathlib import Path

import pytest
from gate_candidates import build_candidate

from carclf.config import load_config
from carclf.errors import ConfigError, NotFoundError
from carclf.progress import TASK_LOG_VARIABLE
from carclf.runs.run import Result, Run
from carclf.runs.run_names import find_run_id, load_run
from carclf.services.storage import Store, init_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the runs nightly-1 (the champion), nightly-10 and seed-7, in this order."""
    store = init_store(tmp_path / "store")
    candidate = build_candidate(store, "champion")
    candidate.promote(store, load_config("demo", {"gate.champion_rule": "off"}), run_id="nightly-1")
    start(store, "nightly-1").record_result(Result("fine_tune", candidate.model.key, False, 1.0, {}, ""))
    for name in ("nightly-10", "seed-7"):
        start(store, name)
    return store


def start(store: Store, run_id: str) -> Run:
    return Run.start_or_resume(run_id, store, "demo", load_config("demo"))


@pytest.mark.parametrize(("name", "run_id"), [
    ("last", "seed-7"), ("champion", "nightly-1"), ("s", "seed-7"), ("nightly-1", "nightly-1"),
    ("nightly-10", "nightly-10"),
])
def test_a_name_selects_a_run(store: Store, name: str, run_id: str) -> None:
    assert find_run_id(name, store) == load_run(name, store).run_id == run_id


def test_an_id_takes_precedence(store: Store) -> None:
    start(store, "champion")
    assert find_run_id("champion", store) == "champion"


def test_a_prefix_of_several_runs_is_an_error_with_their_ids(store: Store) -> None:
    with pytest.raises(ConfigError, match="nightly-10, nightly-1"):
        find_run_id("night", store)


def test_a_mistyped_run_is_an_error_with_a_suggestion(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"'sed-7' in .* Did you mean seed-7"):
        find_run_id("sed-7", store)
    with pytest.raises(NotFoundError, match="'champion'"):
        find_run_id("champion", init_store(Path(store.url) / "new"))


def test_in_a_task_a_name_is_an_id(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TASK_LOG_VARIABLE, "1")
    with pytest.raises(NotFoundError, match="'seed'"):
        load_run("seed", store)
