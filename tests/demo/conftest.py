"""A small rendered competition, a demo server for it, and Kaggle's client connected to that server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carclf.demo.competition import Competition, open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer

SLUG = "demo-cars"


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    render_competition(folder, num_train=40, num_test=20)
    return folder


@pytest.fixture(scope="session")
def competition(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Competition:
    work = tmp_path_factory.mktemp("work")
    return open_competition(rendered, slug=SLUG, work=work, truth=rendered / "truth.csv")


@pytest.fixture
def server(competition: Competition) -> Iterator[DemoServer]:
    with DemoServer(competition, scoring_seconds=0) as running:
        yield running


@pytest.fixture
def client(server: DemoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The client of the package ``kaggle``, which authenticates when the package is imported."""
    for name, value in {
        "HOME": str(tmp_path),
        "KAGGLE_CONFIG_DIR": str(tmp_path / "config"),
        "KAGGLE_USERNAME": "demo",
        "KAGGLE_KEY": "demo-key",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.kaggle_env import KaggleEnv, _env_to_endpoint

    # kagglesdk has no setting for the server's address; its environments are fixed in this table.
    monkeypatch.setitem(_env_to_endpoint, KaggleEnv.PROD, server.url)
    api = KaggleApi()
    api.authenticate()
    return api
