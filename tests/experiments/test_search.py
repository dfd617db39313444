import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from carclf.errors import ConfigError, DataError, ServiceError
from carclf.experiments.plan import make_plan
from carclf.experiments.search import boundary_recipes, num_earlier_trials, parse_range, propose, report_results
from carclf.services.storage import open_store

RANGES = ["fine_tune.learning_rate=1e-4..1e-2", "fine_tune.schedule=cosine|plateau"]


def outcome(rows, stopped_early=(), failed=(), metric="accuracy"):
    return {"metric": metric, "rows": [{"recipe": recipe, "value": value} for recipe, value in rows],
            "stopped_early": [{"recipe": recipe, "val_metric": value} for recipe, value in stopped_early],
            "failed": [{"run": run} for run in failed]}


def test_a_range_has_floats_integers_or_choices():
    assert parse_range(RANGES[0]) == ("fine_tune.learning_rate", FloatDistribution(1e-4, 1e-2, log=True))
    assert parse_range("fine_tune.mixup=0..0.5") == ("fine_tune.mixup", FloatDistribution(0, 0.5))
    assert parse_range("fine_tune.epochs=3..8") == ("fine_tune.epochs", IntDistribution(3, 8))
    assert parse_range(RANGES[1]) == ("fine_tune.schedule", CategoricalDistribution(["cosine", "plateau"]))


@pytest.mark.parametrize("text", [
    "fine_tune.mixup", "fine_tune.mixup=0.5..0.1", "fine_tune.mixup=a..b", "fine_tune.mixup=1..2..3", "mixup=0..1",
])
def test_an_invalid_range_raises_config_error(text):
    with pytest.raises(ConfigError, match=f"range '{text}'"):
        parse_range(text)


def test_the_boundary_recipes_contain_the_ends_and_all_choices_of_the_ranges():
    recipes = boundary_recipes(["fine_tune.mixup=0..0.5", "fine_tune.batch_size=8|16|32"], 2)
    assert list(recipes) == ["trial-0", "trial-1", "trial-2"]
    assert {changes["fine_tune.mixup"] for changes in recipes.values()} == {0, 0.5}
    assert {changes["fine_tune.batch_size"] for changes in recipes.values()} == {8, 16, 32}


def test_a_study_learns_from_reported_results_and_numbers_every_trial(tmp_path):
    store = open_store(str(tmp_path))
    first = propose("rates", RANGES, 12, store)
    assert list(first) == [f"trial-{number}" for number in range(12)]
    assert all(1e-4 <= changes["fine_tune.learning_rate"] <= 1e-2 for changes in first.values())
    # the higher the rate, the better the reported result
    rates = {name: changes["fine_tune.learning_rate"] for name, changes in first.items()}
    report_results("rates", outcome(rates.items()), store)
    second = propose("rates", RANGES, 12, store)
    assert list(second) == [f"trial-{number}" for number in range(12, 24)]
    later = sum(changes["fine_tune.learning_rate"] for changes in second.values()) / 12
    assert later > sum(rates.values()) / 12


def test_a_study_minimizes_a_loss(tmp_path):
    store = open_store(str(tmp_path))
    propose("losses", RANGES, 2, store)
    report_results("losses", outcome([("trial-0", 0.7)], [("trial-1", 0.3)], metric="log_loss"), store)
    path = store.folder / "studies/losses.log"
    study = optuna.load_study(study_name="losses", storage=JournalStorage(JournalFileBackend(str(path))))
    assert study.best_trial.number == 1 and study.best_value == -0.3


def test_earlier_trials_of_a_study_are_counted():
    trials = [{f"trial-{number}": {"fine_tune.mixup": number / 10}} for number in range(6)]
    earlier = make_plan("one", "demo", ["frozen"], trials[0] | trials[1], study="rates")
    later = make_plan("two", "demo", ["frozen"], trials[4] | trials[5], study="rates")
    assert (num_earlier_trials(earlier), num_earlier_trials(later)) == (0, 4)
    assert num_earlier_trials(make_plan("one", "demo", ["trial-7 fine_tune.mixup=0.1"])) == 0


def test_stopped_and_failed_trials_are_reported_once(tmp_path):
    store = open_store(str(tmp_path))
    propose("small", RANGES, 4, store)
    results = outcome([("baseline", 0.5), ("trial-0", 0.7)], [("trial-1", 0.3)], ["one-trial-2-s0"])
    report_results("small", results, store)
    report_results("small", outcome([("trial-0", 0.1)]), store)  # finished trials stay unchanged
    path = store.folder / "studies/small.log"
    study = optuna.load_study(study_name="small", storage=JournalStorage(JournalFileBackend(str(path))))
    assert [(trial.state.name, trial.value) for trial in study.trials] == [
        ("COMPLETE", 0.7), ("COMPLETE", 0.3), ("FAIL", None), ("RUNNING", None)]


@pytest.mark.parametrize("content", [b"garbled\n", b"[]\n", b'{"op_code": 0}\n', b'{"op_code": "x"}\n'])
def test_a_damaged_study_is_reported_with_its_path(tmp_path, content):
    store = open_store(str(tmp_path))
    propose("small", RANGES, 1, store)
    store.write("studies/small.log", content + store.read("studies/small.log").data)
    with pytest.raises(DataError, match=r"studies/small\.log"):
        propose("small", RANGES, 1, store)


def test_a_study_that_changed_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    propose("shared", RANGES, 1, store)
    read = store.read

    def read_and_let_another_process_write(key):
        monkeypatch.undo()
        stored = read(key)
        store.write("studies/shared.log", stored.data + b"\n")
        return stored

    monkeypatch.setattr(store, "read", read_and_let_another_process_write)
    with pytest.raises(ServiceError, match="'shared'"):
        propose("shared", RANGES, 1, store)
