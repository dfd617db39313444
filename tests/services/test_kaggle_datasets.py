"""The dataset client, and what a competition reports, against the demo server."""

import dataclasses
import zipfile
from pathlib import Path

import pytest

from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.kaggle import calls
from carclf.services.kaggle.client import CompetitionDetails, KaggleClient
from carclf.services.kaggle.datasets import DatasetClient, ExtensionSummary

NAME = "ford/car-models"
NUM_FILES = 230  # several pages


@pytest.fixture
def datasets(tmp_path: Path, kaggle_server: DemoServer) -> list[ServedDataset]:
    """Versions 2 and 3 of a dataset, and another dataset; the archives differ."""
    for version in (2, 3):
        with zipfile.ZipFile(tmp_path / f"{version}.zip", "w") as archive:
            for number in range(NUM_FILES):
                archive.writestr(f"cars/{version}/{number}.JPG", str(number))
            archive.writestr("names.csv", "id,name\n")
    kaggle_server.datasets = [
        ServedDataset("ford", "car-models", 3, tmp_path / "3.zip"),
        ServedDataset("ford", "car-models", 2, tmp_path / "2.zip"),
        ServedDataset("ford", "vans", 1, tmp_path / "2.zip"),
    ]
    return kaggle_server.datasets


def connect(name: str = NAME) -> DatasetClient:
    return DatasetClient(name, max_attempts=2, backoff_seconds=0.01, read_timeout_seconds=0.5)


@pytest.mark.parametrize(("version", "expected"), [(0, 3), (2, 2), (3, 3)])
def test_a_version_is_resolved(datasets: list[ServedDataset], version: int, expected: int) -> None:
    assert connect().resolve(version) == expected


@pytest.mark.parametrize("name", ["ford/lorries", "opel/car-models"])
def test_an_unknown_dataset_raises_config_error(datasets: list[ServedDataset], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.source.*{name}"):
        connect(name).resolve(0)


def test_a_version_that_does_not_exist_raises_config_error(datasets: list[ServedDataset]) -> None:
    with pytest.raises(ConfigError, match=r"no version 4.*data\.source"):
        connect().resolve(4)


@pytest.mark.parametrize(("status", "error"), [
    ("BLOBS_RECEIVED", ServiceError), ("REPROCESSING", ServiceError), ("NOT_YET_PERSISTED", ServiceError),
    ("FAILED", DataError), ("DELETED", DataError),
])
def test_a_version_that_is_not_ready_raises_an_error(
    datasets: list[ServedDataset], status: str, error: type[Exception]
) -> None:
    datasets[0] = dataclasses.replace(datasets[0], status=status)
    for version in (0, 3):
        with pytest.raises(error, match=status):
            connect().resolve(version)
    assert connect().resolve(2) == 2  # an older version does not wait for the newest one


def test_a_deleted_older_version_raises_data_error(datasets: list[ServedDataset]) -> None:
    datasets[1] = dataclasses.replace(datasets[1], status="DELETED")
    with pytest.raises(DataError, match="DELETED"):
        connect().resolve(2)


def test_the_files_of_all_pages_are_listed(datasets: list[ServedDataset]) -> None:
    files = connect().list_files(2)
    assert [name for name, _, _ in files] == sorted(["names.csv", *(f"cars/2/{n}.JPG" for n in range(NUM_FILES))])
    assert ("names.csv", 8) in {(name, num_bytes) for name, num_bytes, _ in files}
    assert connect().list_files(2) == files
    assert connect().list_files(3) != files


def test_a_list_with_too_many_pages_is_not_cut(
    datasets: list[ServedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_PAGES", 1)
    with pytest.raises(ServiceError, match=r"data\.source"):
        connect().list_files(2)


def test_the_extensions_are_counted(datasets: list[ServedDataset], kaggle_server: DemoServer) -> None:
    num_bytes = sum(len(str(number)) for number in range(NUM_FILES))
    assert connect().list_extensions(3) == [ExtensionSummary(".jpg", NUM_FILES, num_bytes),
                                            ExtensionSummary(".csv", 1, 8)]
    assert connect().list_extensions(2) == []  # Kaggle summarizes only the newest version
    kaggle_server.faults.append(Fault("GetDatasetFilesSummary", "status", 404))
    assert connect().list_extensions(3) == []


def test_the_chosen_version_is_downloaded(datasets: list[ServedDataset], tmp_path: Path) -> None:
    path = connect().download(2, tmp_path / "new", timeout_seconds=60)
    assert path == tmp_path / "new" / "car-models.zip"
    assert path.read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert list(path.parent.iterdir()) == [path]


def test_kaggles_client_reads_and_downloads_a_dataset(
    datasets: list[ServedDataset], kaggle_server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "config"))
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.kaggle_env import KaggleEnv, _env_to_endpoint

    monkeypatch.setitem(_env_to_endpoint, KaggleEnv.PROD, kaggle_server.url)
    api = KaggleApi()
    api.authenticate()
    assert str(api.dataset_status(NAME)).lower().endswith("ready")
    listing = api.dataset_list_files(NAME, page_size=200)
    assert (len(listing.dataset_files), listing.next_page_token) == (200, "200")
    api.dataset_download_files(NAME, path=str(tmp_path / "new"), quiet=True)
    assert (tmp_path / "new" / "car-models.zip").read_bytes() == (tmp_path / "3.zip").read_bytes()


DETAILS = CompetitionDetails("demo-cars", "Accuracy")


@pytest.mark.parametrize(("change", "obstacle"), [
    ({}, ""), ({"is_notebooks_only": True}, "notebooks"), ({"submissions_disabled": True}, "no submissions"),
])
def test_the_details_show_whether_a_file_can_be_submitted(
    kaggle_server: DemoServer, change: dict[str, bool], obstacle: str
) -> None:
    kaggle_server.competition = dataclasses.replace(kaggle_server.competition, **change)
    details = KaggleClient("demo-cars").details()
    assert details == dataclasses.replace(DETAILS, **change)
    assert bool(details.submission_obstacle) == bool(obstacle)
    assert obstacle in details.submission_obstacle


def test_a_server_without_details_reports_no_obstacle(kaggle_server: DemoServer) -> None:
    kaggle_server.faults.append(Fault("GetCompetition", "status", 404))
    details = KaggleClient("demo-cars").details()
    assert (details, details.submission_obstacle) == (CompetitionDetails(), "")


@pytest.mark.parametrize("change", ["is_notebooks_only", "submissions_disabled"])
def test_a_closed_competition_rejects_a_submission(
    kaggle_server: DemoServer, tmp_path: Path, change: str
) -> None:
    kaggle_server.competition = dataclasses.replace(kaggle_server.competition, **{change: True})
    kaggle = KaggleClient("demo-cars", max_attempts=1)
    (tmp_path / "s.csv").write_text("Id,Category\n")
    token = kaggle.upload(tmp_path / "s.csv")
    with pytest.raises(Exception, match="Submissions"):
        kaggle.create_submission(token, "carclf abc")
    assert kaggle_server.submissions == []


def test_competitions_on_one_server_are_independent(
    kaggle_server: DemoServer, random_bytes_competition: Competition, tmp_path: Path
) -> None:
    ids = ("a", "b")
    loss = Competition("loss", random_bytes_competition.archive, ids, {"a": "cat", "b": "dog"}, metric="log_loss",
                       evaluation_metric="Multiclass Loss", columns=("id", "cat", "dog"), kind="probabilities")
    kaggle_server.other_competitions = [loss]
    first, second = KaggleClient("demo-cars"), KaggleClient("loss")
    for text in ("id,cat,dog\na,0.5,0.5\nb,0.5,0.5\n", "id,cat,dog\na,0.9,0.1\nb,0.1,0.9\n"):
        (tmp_path / "s.csv").write_text(text)
        second.create_submission(second.upload(tmp_path / "s.csv"), "carclf abc")
    states = second.list_submissions()
    assert [state.public_score for state in states] == [0.10536, 0.69314]
    assert first.list_submissions() == []
    assert second.leaderboard_rank(0.5, higher_is_better=False) == 2  # a lower loss is better
    assert second.leaderboard_rank(0.1, higher_is_better=False) == 1
    assert (second.details().evaluation_metric, first.details().evaluation_metric) == ("Multiclass Loss", "Accuracy")
    assert second.download(tmp_path / "new", timeout_seconds=60).name == "loss.zip"
    limits = second.submission_limits()
    assert limits is not None and limits.num_today == 2
