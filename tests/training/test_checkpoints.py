"""Checkpoints in the store, damaged or intact, and their writer."""

import json
import threading

import numpy as np
import pytest

from carclf.errors import ConfigError
from carclf.services.storage import open_store
from carclf.training.checkpoints import Checkpoints, CheckpointWriter


@pytest.mark.parametrize("content", [b"", b'{"file": "ab', b"[]", b"{}"])
def test_a_damaged_latest_json_counts_as_no_checkpoint(tmp_path, content):
    store = open_store(str(tmp_path))
    checkpoints = Checkpoints(store, "k")
    checkpoints.save([np.arange(3)], [], {"step": 1})
    store.write("checkpoints/k/latest.json", content)
    assert checkpoints.load() is None
    checkpoints.save([np.arange(3)], [], {"step": 2})
    assert checkpoints.load()[2] == {"step": 2}
    store.write("checkpoints/k/latest.json", content)
    checkpoints.clear()
    assert {store.read(key).data for key in store.list_keys("checkpoints/")} == {b"null", b""}


def best_files(store):
    """Return the content of each file with best weights."""
    return {key: store.read(key).data for key in store.list_keys("checkpoints/k/") if "-best-" in key}


def test_the_best_weights_are_written_only_when_they_changed(tmp_path):
    store = open_store(str(tmp_path))
    checkpoints, best = Checkpoints(store, "k"), [np.ones(2)]
    checkpoints.save([np.zeros(3)], best, {"step": 1})
    (key,) = best_files(store)
    path = tmp_path / key
    written = path.stat().st_mtime_ns
    checkpoints.save([np.ones(3)], best, {"step": 2})
    assert list(best_files(store)) == [key] and path.stat().st_mtime_ns == written
    checkpoints.save([np.ones(3)], [np.full(2, 7.0)], {"step": 3})
    assert len(best_files(store)) == 2
    arrays, loaded, state = Checkpoints(store, "k").load()
    np.testing.assert_array_equal(arrays[0], np.ones(3))
    np.testing.assert_array_equal(loaded[0], [7, 7])
    assert state == {"step": 3}


@pytest.mark.parametrize("kind", ["state", "best"])
def test_a_checkpoint_with_a_damaged_file_falls_back_to_the_one_before_it(tmp_path, kind):
    store = open_store(str(tmp_path))
    checkpoints = Checkpoints(store, "k")
    for step in (1, 2):
        checkpoints.save([np.full(2, step)], [np.full(3, step)], {"step": step})
    latest = json.loads(store.read("checkpoints/k/latest.json").data)
    store.write(f"checkpoints/k/{(latest if kind == 'state' else latest['best'])['file']}", b"half of it")
    arrays, best, state = checkpoints.load()
    assert (arrays[0][0], best[0][0], state["step"]) == (1, 1, 1)


def test_the_writer_returns_at_once_and_raises_an_error_at_the_next_wait(tmp_path):
    may_end = threading.Event()

    class FullDisk(Checkpoints):
        def save(self, arrays, best, state):
            assert may_end.wait(60)
            raise ConfigError("The disk is full.")

    with CheckpointWriter(FullDisk(open_store(str(tmp_path)), "k")) as writer:
        writer.save([], [], {"step": 1})
        may_end.set()
        with pytest.raises(ConfigError, match="disk is full"):
            writer.wait()
        writer.wait()
