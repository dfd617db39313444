"""Tests of reading a run: in parallel, each file once, and nothing outside the store."""

import threading
import time
from pathlib import Path

import pytest
from gate_candidates import build_candidate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorded_runs import record_candidate

from carclf.config import load_config
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import artifact_file, run_facts
from carclf.errors import ConfigError
from carclf.runs.run import Result
from carclf.services.storage import FolderStore, VersionedObject
from carclf.stages.chain import STAGES


class RecordingStore(FolderStore):
    """A folder that records which keys are read and how many reads run at once; each takes ``seconds``."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        super().__init__(folder)
        self.seconds = seconds
        self.read_keys: list[str] = []
        self.num_active = 0
        self.max_active = 0
        self.lock = threading.Lock()

    def read(self, key: str) -> VersionedObject | None:
        with self.lock:
            self.read_keys.append(key)
            self.num_active += 1
            self.max_active = max(self.max_active, self.num_active)
        time.sleep(self.seconds)
        with self.lock:
            self.num_active -= 1
        return super().read(key)


def test_a_run_is_read_in_parallel_and_each_key_once(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    candidate = build_candidate(store, "good", config=load_config("demo", {"gate.threshold": 0.1}))
    run = record_candidate(store, "r", candidate)
    decision, _ = candidate.promote(store)
    run.record_result(Result("promote", decision.key, False, 1.0, decision.metrics, ""))
    slow_store = RecordingStore(Path(store.url), seconds=0.1)
    assert run_facts(slow_store, "r") == run_facts(store, "r")
    assert len(slow_store.read_keys) == len(set(slow_store.read_keys)) >= 9
    assert slow_store.max_active >= 5


HOSTILE = st.one_of(
    st.text(max_size=40), st.text(alphabet="./\\%2e~r\n\0-_", max_size=30),
    st.sampled_from(["..", "../champion", "r/../../champion", "/etc/passwd", "r\n", "r\0", "r%2f..", "runs/r", ".r",
                     "r" * 300, "file:///etc/passwd", "..\\r", "\u202er", "\uff52"]),
)


@pytest.fixture(scope="module")
def recording_store(tmp_path_factory: pytest.TempPathFactory) -> RecordingStore:
    folder = tmp_path_factory.mktemp("top")
    (folder / "champion.json").write_text("secret")
    store = RecordingStore(folder / "store")
    record_candidate(store, "r", build_candidate(store, "one"))
    return store


@settings(max_examples=150, deadline=None)
@given(name=HOSTILE, stage=HOSTILE | st.sampled_from(list(STAGES)), file=HOSTILE)
@example(name="r", stage="evaluate", file="evaluation.json")
def test_no_name_escapes_the_store(recording_store: RecordingStore, name: str, stage: str, file: str) -> None:
    store = recording_store
    store.read_keys.clear()
    for use in (lambda: run_facts(store, name), lambda: artifact_file(store, name, stage, file),
                lambda: compare_runs(store, name, "r"), lambda: artifact_file(store, "r", stage, file)):
        try:
            result = use()
        except ConfigError as error:
            assert repr(name) in str(error)
        else:
            assert result is None or name == "r" or isinstance(result, bytes)
    assert set(store.read_keys) <= {*store.list_keys(), f"runs/{name}.json", "champion.json"}
