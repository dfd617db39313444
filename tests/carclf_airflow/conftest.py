"""The pages behind Airflow's login, with a database in a temporary folder and tokens signed by Airflow."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from carclf.services.storage import Store, init_store


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    home = tmp_path_factory.mktemp("airflow")
    settings = {  # Airflow reads these at import; no other test in this process imports it
        "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__API__BASE_URL": "http://testserver/prefix",
    }
    with pytest.MonkeyPatch.context() as patch:  # child processes of other tests must not inherit them
        for name, value in settings.items():
            patch.setenv(name, value)
        yield _create_app()


def _create_app() -> FastAPI:
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
    return init_store(tmp_path / "store")


@pytest.fixture
def anonymous_client(app: FastAPI, store: Store) -> Iterator[TestClient]:
    """A client without a login; the pages are mounted as Airflow mounts them."""
    airflow = FastAPI()
    airflow.mount("/carclf", app)
    with TestClient(airflow, base_url="http://testserver/carclf", raise_server_exceptions=False) as client:
        yield client


def logged_in(client: TestClient, role: str | None) -> TestClient:
    """Return the client with the cookie of a login."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    user = SimpleAuthManagerUser(username=role or "nobody", role=role)
    client.cookies.set("_token", get_auth_manager().generate_jwt(user))
    return client


@pytest.fixture
def viewer(anonymous_client: TestClient) -> TestClient:
    """A client with the permission to read the DAGs."""
    return logged_in(anonymous_client, "viewer")


@pytest.fixture
def editor(anonymous_client: TestClient) -> TestClient:
    """A client with the permission to edit the DAGs."""
    return logged_in(anonymous_client, "user")


@pytest.fixture
def client_without_role(anonymous_client: TestClient) -> TestClient:
    """A client with a login and no permissions."""
    return logged_in(anonymous_client, None)
