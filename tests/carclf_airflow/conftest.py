"""The real pages behind Airflow's real login: a database of its own in a file, tokens as Airflow signs them."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from carclf.services.storage import Store, open_store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    home = tmp_path_factory.mktemp("airflow")
    known = {  # Airflow reads them when it is imported, which no other test does in this process
        "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__API__BASE_URL": "http://testserver/prefix", "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    }
    with pytest.MonkeyPatch.context() as patch:  # other tests' child processes shall not inherit them
        for name, value in known.items():
            patch.setenv(name, value)
        patch.syspath_prepend(ROOT / "plugins")
        yield _site()


def _site() -> FastAPI:
    from airflow import settings
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.models.base import Base
    from airflow.utils.db import import_all_models

    import_all_models()
    Base.metadata.create_all(settings.engine)
    create_auth_manager()
    from carclf_airflow import routes

    return routes.create_app()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CARCLF_STORE", str(tmp_path / "store"))
    return open_store(tmp_path / "store")


@pytest.fixture
def anonymous_client(site: FastAPI, store: Store) -> Iterator[TestClient]:
    """Somebody who is not logged in; the pages are mounted as Airflow mounts them."""
    airflow = FastAPI()
    airflow.mount("/carclf", site)
    with TestClient(airflow, base_url="http://testserver/carclf", raise_server_exceptions=False) as client:
        yield client


def logged_in(client: TestClient, role: str | None) -> TestClient:
    """The client with the cookie of a login."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    user = SimpleAuthManagerUser(username=role or "nobody", role=role)
    client.cookies.set("_token", get_auth_manager().generate_jwt(user))
    return client


@pytest.fixture
def viewer(anonymous_client: TestClient) -> TestClient:
    """Somebody who may read the DAGs, and no more."""
    return logged_in(anonymous_client, "viewer")


@pytest.fixture
def editor(anonymous_client: TestClient) -> TestClient:
    """Somebody who may edit the DAGs."""
    return logged_in(anonymous_client, "user")


@pytest.fixture
def nobody(anonymous_client: TestClient) -> TestClient:
    """Somebody with a login and without any right."""
    return logged_in(anonymous_client, None)
