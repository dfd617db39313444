"""Distillation: a teacher's probabilities in the targets, its checks, and reuse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import evaluation_in_this_process, render_car_folders, run_to

from carclf.artifacts import Model, SoftTargets, Split
from carclf.config import FineTune, load_config
from carclf.errors import ConfigError, DataError, NotFoundError
from carclf.pipeline.mixing import BatchMixer
from carclf.runs.repair import find_damage, repair
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store
from carclf.training.soft_targets import FILE, mixed_targets
from carclf.training.warm_start import excluded_settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_car_folders(tmp_path_factory.mktemp("cars"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with evaluation_in_this_process(tmp_path_factory.mktemp("cache")):
        yield init_store(str(tmp_path_factory.mktemp("distillation") / "store"))


def train(store: Store, cars: Path, name: str, **settings: Any) -> Run:
    options = {"data.source": str(cars), "fine_tune.epochs": 1, "fine_tune.batch_size": 16} | settings
    return run_to("fine_tune", store, name, **options)


@pytest.fixture(scope="module")
def teacher(store: Store, cars: Path) -> Run:
    return train(store, cars, "teacher")


def student_settings(teacher: Run, **settings: Any) -> dict[str, Any]:
    return {"fine_tune.teacher": teacher.artifact(Model, "fine_tune").key} | settings


def weights_of(run: Run) -> list[np.ndarray]:
    return run.artifact(Model, "fine_tune").network(run.store).get_weights()


def test_a_teacher_changes_the_targets_of_the_training_and_nothing_else(
    store: Store, cars: Path, teacher: Run
) -> None:
    student = train(store, cars, "student", **student_settings(teacher))
    model = student.artifact(Model, "fine_tune")
    assert model.key != teacher.artifact(Model, "fine_tune").key
    assert student.artifact(Model, "train_head").key == teacher.artifact(Model, "train_head").key
    assert any((a != b).any() for a, b in zip(weights_of(student), weights_of(teacher), strict=True))
    targets = SoftTargets.require(store, model.input("soft_targets"))
    split = student.artifact(Split, "split")
    rows = split.rows(store).query("subset == 'train'")
    table = mixed_targets(rows, targets, split.class_names, 0.25, store)
    assert table.shape == (len(rows), 10) and table.dtype == np.float32
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
    assert (table[np.arange(len(rows)), rows["class_index"]] >= 0.75).all()
    soft = pd.read_parquet(targets.path(store, FILE)).set_index("path").loc[rows["path"]].to_numpy()
    np.testing.assert_allclose(mixed_targets(rows, targets, split.class_names, 1, store), soft, atol=1e-6)


def test_with_the_weight_0_the_student_is_bit_identical_to_a_training_without_teacher(
    store: Store, cars: Path, teacher: Run
) -> None:
    student = train(store, cars, "zero", **student_settings(teacher, **{"fine_tune.teacher_weight": 0}))
    assert all((a == b).all() for a, b in zip(weights_of(student), weights_of(teacher), strict=True))


def test_the_soft_targets_are_computed_once_and_rebuilt_if_they_are_damaged(
    store: Store, cars: Path, teacher: Run
) -> None:
    first = train(store, cars, "first", **student_settings(teacher))
    path = next(key for key in store.list_keys("soft_targets/") if key.endswith(FILE))
    assert len(SoftTargets.list_keys(store)) == 1
    store.write(path, b"damaged")
    (damage,) = find_damage(store)
    assert damage.path == "/".join(path.split("/")[:2])
    repair(store, damage)
    again = train(store, cars, "again", **student_settings(teacher, **{"force": True}))
    assert all((a == b).all() for a, b in zip(weights_of(first), weights_of(again), strict=True))


def test_a_model_that_does_not_exist_cannot_be_the_teacher(store: Store, cars: Path) -> None:
    with pytest.raises(NotFoundError, match=r"fine_tune\.teacher.*carclf champion show"):
        train(store, cars, "missing", **{"fine_tune.teacher": "0" * 16})


@pytest.mark.parametrize("key", ["champion", "0" * 15, "G" * 16])
def test_the_teacher_is_the_key_of_a_model(key: str) -> None:
    with pytest.raises(ConfigError, match=r"fine_tune\.teacher"):
        load_config("demo", {"fine_tune.teacher": key})


def test_a_teacher_that_was_trained_on_the_validation_images_is_rejected(
    store: Store, cars: Path, teacher: Run
) -> None:
    with pytest.raises(DataError, match=r"validation images"):
        train(store, cars, "leak", **student_settings(teacher, **{"split.seed": 5}))


def test_a_teacher_that_lacks_a_class_is_rejected(
    store: Store, cars: Path, teacher: Run, tmp_path: Path
) -> None:
    for folder in cars.iterdir():
        (tmp_path / "cars" / f"new-{folder.name}").mkdir(parents=True)
        for file in folder.iterdir():
            (tmp_path / "cars" / f"new-{folder.name}" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="does not know the class 'new-0'"):
        train(store, tmp_path / "cars", "classes", **student_settings(teacher))


def test_without_a_teacher_its_settings_are_not_part_of_a_key() -> None:
    assert {"teacher", "teacher_weight"} <= excluded_settings(FineTune())
    assert not {"teacher", "teacher_weight"} & excluded_settings(FineTune(teacher="0" * 16))


def test_soft_labels_are_mixed_like_hard_labels() -> None:
    mixer = BatchMixer(3, seed=1, mixup=1.0)
    pixels = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    labels = np.array([0, 1, 2, 1], np.int32)
    hard = mixer(0, (pixels, labels))
    soft = mixer(0, (pixels, np.eye(3, dtype=np.float32)[labels]))
    assert all((a == b).all() for a, b in zip(hard, soft, strict=True))
