"""Checkpoints in the store, damaged or intact."""

import numpy as np
import pytest

from carclf.services.storage import open_store
from carclf.training.checkpoints import Checkpoints


@pytest.mark.parametrize("content", [b"", b'{"file": "ab', b"[]", b"{}"])
def test_a_damaged_latest_json_counts_as_no_checkpoint(tmp_path, content):
    store = open_store(str(tmp_path))
    checkpoints = Checkpoints(store, "k")
    checkpoints.save([np.arange(3)], {"step": 1})
    store.write("checkpoints/k/latest.json", content)
    assert checkpoints.load() is None
    checkpoints.save([np.arange(3)], {"step": 2})
    assert checkpoints.load()[1] == {"step": 2}
    store.write("checkpoints/k/latest.json", content)
    checkpoints.clear()
    assert {store.read(key).data for key in store.list_keys("checkpoints/")} == {b"null", b""}
