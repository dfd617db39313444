"""Upgrade an older database schema by ``docker compose run --rm init``."""

import pytest
from cluster import Cluster, inside

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def test_an_older_schema_is_upgraded_by_one_command(cluster: Cluster) -> None:
    (postgres,) = cluster.containers("postgres")
    inside(postgres, "createdb", "-U", "airflow", "older")
    address = f"postgresql+psycopg2://airflow:{cluster.secrets['POSTGRES_PASSWORD']}@postgres/older"
    run = ("run", "--rm", "-T", "-e", f"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN={address}", "init")
    cluster.compose(*run, "airflow", "db", "migrate", "--to-version", "3.1.0")
    current = revision(postgres, "airflow")
    assert revision(postgres, "older") != current
    cluster.compose(*run)
    assert revision(postgres, "older") == current
    inside(postgres, "dropdb", "-U", "airflow", "older")


def revision(postgres: str, database: str) -> str:
    """Return the schema's revision as Airflow records it."""
    return inside(postgres, "psql", "-U", "airflow", "-tAd", database, "-c", "SELECT version_num FROM alembic_version")
