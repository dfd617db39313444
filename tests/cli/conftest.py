"""Small real runs in one store, for the commands that need trained models."""

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import FOLDS, reload_in_this_process, run_to

from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.services.storage import Store, init_store


@pytest.fixture(scope="session")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DemoServer]]:
    """The rendered images, and the server that offers them."""
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=10)
    with DemoServer(open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))) as server:
        yield folder, server


@pytest.fixture
def kaggle_environment(cars: tuple[Path, DemoServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", cars[1].url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")


@pytest.fixture(scope="session")
def store(cars: tuple[Path, DemoServer], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Store:
    """A store with trained runs: seed-0 (the champion), seed-1 and wide on one split, fold-0 and fold-1 on two others.

    The first test process creates it; the others wait and use it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "trained"
    with folder.with_suffix(".lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            patch.setenv("CARCLF_KAGGLE_ENDPOINT", cars[1].url)
            patch.setenv("KAGGLE_API_TOKEN", "demo-key")
            patch.setenv("CARCLF_CACHE", str(base / "cache"))
            reload_in_this_process(patch)
            _train(init_store(str(folder.with_suffix(".part"))))
            folder.with_suffix(".part").rename(folder)
    return init_store(str(folder))


def _train(store: Store) -> None:
    for fold in range(2):
        run_to("evaluate", store, f"fold-{fold}", **FOLDS | {"split.fold": fold})
    run_to("promote", store, "seed-0", **{"evaluate.zooms": "1,1.2"})
    run_to("evaluate", store, "seed-1", seed=1)
    run_to("evaluate", store, "wide", **{"model.image_height": 96, "model.image_width": 128})


@pytest.fixture
def store_copy(store: Store, tmp_path: Path) -> Store:
    """A copy of the store, for a test that changes its champion or its runs."""
    shutil.copytree(store.url, tmp_path / "store")
    return init_store(str(tmp_path / "store"))
