"""``carclf experiment`` with real stages on a few rendered cars."""

import json

import pytest
from small_runs import SMALL
from typer.testing import CliRunner

from carclf.artifacts import Model
from carclf.cli.app import app
from carclf.errors import ConfigError, QualityError
from carclf.experiments.plan import read_plan
from carclf.experiments.trainings import minutes_spent
from carclf.runs.run import Run
from carclf.services.storage import init_store

SETTINGS = SMALL | {"fine_tune.epochs": 2}


def carclf(store, *arguments):
    result = CliRunner().invoke(app, ["experiment", *arguments, "--store", store.url])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def outcome(store, name):
    return json.loads(store.read(f"experiments/{name}/outcome.json").data)


def stages(store, run):
    return json.loads(store.read(f"runs/{run}.json").data)["stages"]


def plan(store, name, *arguments):
    options = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return carclf(store, "plan", "--name", name, "--recipe", "demo", *options, *arguments)


@pytest.fixture(scope="module")
def compared(cars, tmp_path_factory):
    """The store of an experiment that was raced and compared; the training of one recipe failed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_KAGGLE_ENDPOINT", cars[1].url)
        patch.setenv("KAGGLE_API_TOKEN", "demo-key")
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        store = init_store(str(tmp_path_factory.mktemp("store")))
        plan(store, "one", "--try", "frozen", "--try", "single-view", "--try", "ensemble",
             "--try", 'lost model.weights="champion"', "--try", "mixup", "--rungs", "1", "--keep-fraction", "0.7")
        carclf(store, "run", "--name", "one")
    return store


@pytest.mark.trainings
def test_the_outcome_has_a_row_for_each_finished_recipe(compared):
    results = outcome(compared, "one")
    assert [row["recipe"] for row in results["rows"]][:3] == ["baseline", "frozen", "single-view"]
    assert results["rows"][-1]["recipe"] == "ensemble"
    assert [row["run"] for row in results["failed"]] == ["one-lost-s0", "one-lost-s1"]
    assert all("champion" in row["error"] for row in results["failed"])
    assert results["not_trained"] == []
    assert results["num_images"] > 20
    assert results["num_comparisons"] == len(results["rows"]) - 1 + len(results["stopped_early"])
    assert results["winner"] == ""  # there are too few images
    for row in results["rows"][1:]:
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["summary"].startswith(("no significant difference", "better", "worse"))


@pytest.mark.trainings
def test_recipes_that_share_a_training_have_one_model_and_the_same_cost(compared):
    runs = {name: stages(compared, f"one-{name}-s0") for name in ("baseline", "single-view", "frozen")}
    assert runs["baseline"]["fine_tune"]["key"] == runs["single-view"]["fine_tune"]["key"]
    assert runs["baseline"]["evaluate"]["key"] != runs["single-view"]["evaluate"]["key"]
    assert len({run["split"]["key"] for run in runs.values()}) == 1
    rows = {row["recipe"]: row for row in outcome(compared, "one")["rows"]}
    assert rows["single-view"]["minutes"] == rows["baseline"]["minutes"]
    assert rows["ensemble"]["relative_cost"] == pytest.approx(2)
    assert rows["frozen"]["relative_cost"] < 1


@pytest.mark.trainings
def test_the_command_of_the_ensemble_reproduces_its_accuracy(compared):
    row = outcome(compared, "one")["rows"][-1]
    result = CliRunner().invoke(app, [*row["command"].split()[1:], "--store", compared.url, "--name", "joined"])
    metrics = stages(compared, "joined")["evaluate"]["metrics"]
    assert metrics["val_accuracy"] == pytest.approx(row["accuracy"]), result.output


@pytest.mark.trainings
def test_the_report_and_the_table_name_every_recipe_with_its_command(compared, tmp_path):
    page = compared.read("experiments/one/report.html").data.decode()
    assert all(f"{name}" in page for name in ("baseline", "frozen", "single-view", "ensemble", "one-lost-s0"))
    path = tmp_path / "results.md"
    path.write_text("# Results\n\nText before.\n")
    carclf(compared, "table", "--name", "one", "--to", str(path), "--note", "On a test machine.")
    carclf(compared, "table", "--name", "one", "--to", str(path), "--note", "Again | there.")
    text = path.read_text()
    assert text.startswith("# Results\n\nText before.\n\n<!-- experiment one -->\n## one\n")
    assert text.count("<!-- experiment one -->") == 1
    assert "Again | there." in text
    assert "On a test machine." not in text
    assert "`carclf run --recipe demo --set" in text
    assert "--set fine_tune.epochs=0 " in text
    assert text.count("--set submit.enabled=false") == 4  # reproducing a row submits nothing
    assert "Not trained" not in text
    assert "![Accuracy over minutes of training](one.png)" in text
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.trainings
def test_a_training_that_paused_at_a_rung_ends_with_the_same_weights(compared, kaggle_environment, tmp_path):
    store = init_store(str(tmp_path))
    plan(store, "straight", "--try", "single-view", "--seeds", "0")
    carclf(store, "run", "--name", "straight")
    raced, straight = (
        Run.load(f"{name}-baseline-s0", runs).artifact(Model, "fine_tune")
        for runs, name in ((compared, "one"), (store, "straight"))
    )
    assert raced.key == straight.key
    assert raced.files["reference_logits.parquet"].sha256 == straight.files["reference_logits.parquet"].sha256


@pytest.mark.parametrize(("ranges", "message"), [
    (["split.val_fraction=0.1..0.2"], "changes split.val_fraction"),
    (["fine_tune.epochs=1..5000"], "fine_tune.epochs = 5000: Input should be less than or equal to 500"),
    (["fine_tune.schedule=cosine|plateau|plataeu"], "fine_tune.schedule = 'plataeu'"),
    (["fine_tune.mixup=0..0.2", "fine_tune.mixup=0..0.3"], "two ranges"),
])
def test_an_invalid_search_proposes_no_trials(tmp_path, ranges, message):
    store = init_store(str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        carclf(store, "plan", "--name", "rates", "--form", json.dumps({"recipe": "demo", "search": ranges}))
    assert list(store.list_keys("studies/")) == []


@pytest.mark.trainings
def test_no_training_starts_after_the_budget_is_spent(kaggle_environment, tmp_path):
    store = init_store(str(tmp_path))
    plan(store, "short", "--try", "frozen", "--try", "mixup", "--try", "ensemble frozen mixup", "--seeds", "0",
         "--budget-minutes", "0.001")
    carclf(store, "run", "--name", "short")
    results = outcome(store, "short")
    assert [row["recipe"] for row in results["rows"]] == ["baseline"]
    assert (results["not_trained"], results["failed"]) == (["frozen", "mixup", "ensemble"], [])
    assert store.read("runs/short-mixup-s0.json") is None  # it never started


@pytest.mark.trainings
def test_spent_minutes_add_up_over_attempts_and_rungs(kaggle_environment, tmp_path):
    for name, options in (("again", []), ("raced", ["--rungs", "1"])):
        store = init_store(str(tmp_path / name))
        plan(store, name, "--try", "frozen", "--try", "mixup", "--seeds", "0", *options)
        carclf(store, "prepare", "--name", name)
        spent = [0.0]
        for rung in ("1", "0", "0") if options else ("0", "0"):
            carclf(store, "train", "--name", name, "--training-runs", "0", "--rung", rung)
            spent.append(minutes_spent(read_plan(name, store), store))
        assert spent == sorted(spent)
        head = stages(store, f"{name}-baseline-s0")["train_head"]
        assert 60 * spent[1] > head["seconds"] + 0.1  # the epochs up to the rung count too


@pytest.mark.trainings
def test_shared_features_count_for_every_recipe(kaggle_environment, tmp_path):
    store = init_store(str(tmp_path))
    plan(store, "shared", "--set", "fine_tune.epochs=0", "--try", "smooth head.label_smoothing=0.3",
         "--try", "batch-32", "--seeds", "0")
    printed = carclf(store, "run", "--name", "shared")
    assert "the same as the baseline" in printed  # the baseline's batch size is 32 already
    computed = sum(json.loads(store.read(key).data)["seconds"] for key in store.list_keys("features/")
                   if key.endswith("manifest.json"))
    saved = {}
    for name in ("baseline", "smooth"):
        key = stages(store, f"shared-{name}-s0")["train_head"]["key"]
        head = json.loads(store.read(f"models/{key}/manifest.json").data)
        saved[name] = head["metrics"]["seconds_saved"]
        row = next(row for row in outcome(store, "shared")["rows"] if row["recipe"] == name)
        assert 60 * row["minutes"] == pytest.approx(head["seconds"] + saved[name])
    assert "not for other seeds" in carclf(store, "table", "--name", "shared")
    assert saved["baseline"] < 0.1 * computed
    assert 0.2 * computed < saved["smooth"] <= computed


@pytest.mark.trainings
def test_a_recipe_with_an_untrained_fold_counts_as_not_trained(kaggle_environment, tmp_path):
    store = init_store(str(tmp_path))
    plan(store, "folds", "--set", "fine_tune.epochs=0", "--try", "smooth head.label_smoothing=0.3", "--seeds", "0",
         "--folds", "2")
    for fold in ("0", "1"):
        carclf(store, "prepare", "--name", "folds", "--fold", fold)
    carclf(store, "train", "--name", "folds", "--training-runs", "0,1,2")
    carclf(store, "compare", "--name", "folds")
    results = outcome(store, "folds")
    assert [row["recipe"] for row in results["rows"]] == ["baseline"]
    assert results["not_trained"] == ["smooth"]


@pytest.mark.trainings
def test_an_unexpected_error_in_one_training_does_not_stop_the_others(kaggle_environment, tmp_path, monkeypatch):
    store = init_store(str(tmp_path / "store"))
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "decoded").write_text("a file where fine-tuning needs a folder")
    plan(store, "broken", "--set", "fine_tune.epochs=0", "--set", "fine_tune.cache_gb=0",
         "--try", "cached fine_tune.cache_gb=1 fine_tune.epochs=1", "--try", "smooth head.label_smoothing=0.3",
         "--seeds", "0")
    printed = carclf(store, "run", "--name", "broken")
    assert "broken-cached-s0 failed: FileExistsError: " in printed
    results = outcome(store, "broken")
    assert [row["recipe"] for row in results["rows"]] == ["baseline", "smooth"]
    assert [row["run"] for row in results["failed"]] == ["broken-cached-s0"]


def test_comparing_before_training_raises_quality_error(tmp_path):
    store = init_store(str(tmp_path))
    plan(store, "early", "--try", "frozen")
    with pytest.raises(QualityError, match="'early'"):
        carclf(store, "compare", "--name", "early")


@pytest.mark.parametrize(("arguments", "message"), [
    (["table"], "'early' .* has not been compared yet"),
    (["train", "--training-runs", "9"], "no training run 9.* from 0 to 3"),
    (["train", "--training-runs", "0", "--rung", "2"], "no rung 2"),
    (["train", "--training-runs", "a"], "--training-runs = 'a'"),
])
def test_a_step_missing_from_the_plan_raises_config_error(tmp_path, arguments, message):
    store = init_store(str(tmp_path))
    plan(store, "early", "--try", "frozen")
    with pytest.raises(ConfigError, match=message):
        carclf(store, *arguments, "--name", "early")


def test_planning_again_proposes_no_further_trials(tmp_path):
    store = init_store(str(tmp_path))
    form = {"recipe": "demo", "recipes": ["frozen"], "search": ["fine_tune.learning_rate=1e-4..1e-2"], "num_trials": 3}
    for _ in range(2):
        printed = carclf(store, "plan", "--name", "rates", "--form", json.dumps(form))
        assert printed == "rates: 5 recipes, 10 trainings\n"
    names = ["baseline", "frozen", "trial-0", "trial-1", "trial-2"]
    plan = json.loads(store.read("experiments/rates/plan.json").data)
    assert (list(plan["recipes"]), plan["study"]) == (names, "rates")
    with pytest.raises(ConfigError, match="--form and --try"):
        carclf(store, "plan", "--name", "rates", "--form", json.dumps(form), "--try", "frozen")
