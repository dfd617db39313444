"""One cluster for all tests of this folder, because building and starting it takes minutes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers on the demo competition, healthy, logged in, the DAG unpaused."""
    before = dict(os.environ)
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def finished_run(cluster: Cluster) -> str:
    """The id of a successful run."""
    run_id = cluster.trigger()
    state = cluster.finish(run_id)
    assert state == "success", {name: task["state"] for name, task in cluster.tasks(run_id).items()}
    return run_id
