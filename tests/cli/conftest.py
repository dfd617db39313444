"""Small real runs in one store, for the commands that do something with trained models."""

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import FOLDS, run_to

from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.evaluation import reload_check as reloading
from carclf.inference.runtimes import LOADERS
from carclf.services.storage import Store, open_store


@pytest.fixture(scope="session")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DemoServer]]:
    """The rendered pictures and the server that has them."""
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=10)
    with DemoServer(open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))) as running:
        yield folder, running


@pytest.fixture
def kaggle(cars: tuple[Path, DemoServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", cars[1].url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")


@pytest.fixture(scope="session")
def store(cars: tuple[Path, DemoServer], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Store:
    """Runs seed-0 (the champion), seed-1 and wide to evaluate on one split, fold-0 and fold-1 on two.

    Whichever process of the tests comes first makes it; the others wait and take it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "trained"
    with folder.with_suffix(".lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            patch.setenv("CARCLF_KAGGLE_ENDPOINT", cars[1].url)
            patch.setenv("KAGGLE_API_TOKEN", "demo-key")
            patch.setenv("CARCLF_CACHE", str(base / "cache"))
            # five seconds of imports for each evaluation; the tests of evaluations and of ensembles reload in earnest
            patch.setattr(reloading, "predict_logits", lambda name, path, pictures: LOADERS[name](path)(pictures))
            _train(open_store(str(folder.with_suffix(".part"))))
            folder.with_suffix(".part").rename(folder)
    return open_store(str(folder))


def _train(place: Store) -> None:
    for fold in range(2):
        run_to("evaluate", place, f"fold-{fold}", **FOLDS | {"split.fold": fold})
    run_to("promote", place, "seed-0", **{"evaluate.zooms": "1,1.2"})
    run_to("evaluate", place, "seed-1", seed=1)
    run_to("evaluate", place, "wide", **{"model.image_height": 96, "model.image_width": 128})


@pytest.fixture
def store_copy(store: Store, tmp_path: Path) -> Store:
    """A copy of the store, for a test that changes its champion or its runs."""
    shutil.copytree(store.url, tmp_path / "store")
    return open_store(str(tmp_path / "store"))
