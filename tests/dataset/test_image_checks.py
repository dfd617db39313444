"""Faults of each kind planted in one dataset: validation finds all of them and nothing else."""

import io
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from class_folders import build_index, read_layout
from PIL import Image, ImageEnhance, ImageFilter

from carclf.config import Validation
from carclf.dataset.archives import extract
from carclf.dataset.checks import find_problems, raise_on_errors
from carclf.dataset.findings import SEVERITY_BY_KIND, Findings
from carclf.dataset.fixes import LabelFix, LabelFixes, apply_fixes
from carclf.dataset.image_checks import CheckContext
from carclf.demo.rendering import car_image, render_competition
from carclf.errors import DataError

SETTINGS = Validation(min_images_per_class=5, max_megapixels=1, max_unusable_fraction=0.02, max_imbalance=3)
FIXES = LabelFixes((
    LabelFix(2, "910020.jpg", "drop", None), LabelFix(3, "910021.jpg", "relabel", "3"),
    LabelFix(4, "nowhere.jpg", "drop", None),
))
UNTESTED = {
    "too_few_classes",  # it would hide other kinds
    # of the layout and the archive
    "label_mismatch", "invalid_label_table", "unmatched_label_table", "empty_class_folder", "ambiguous_class",
    "similar_classes", "placeholder_class", "empty_class_column", "combined_classes", "guessed_encoding",
    "garbled_class", "unnamed_classes", "subset_class", "unused_subsets", "common_prefixes",
    "ignored_data", "ignored_file",
}
Planted = set[tuple[str, str]]


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Planter:
    """Writes files into a rendered competition and collects the expected findings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = np.random.default_rng(9)
        self.planted = Planted()

    def car(self, label: int) -> Image.Image:
        return Image.open(io.BytesIO(car_image(label, self.random)))

    def put(self, path: str, data: bytes | Image.Image | None = None, *kinds: str) -> None:
        if data is None:
            data = car_image(1, self.random)
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded(data, quality=90) if isinstance(data, Image.Image) else data)
        self.planted |= {(kind, path) for kind in kinds}


def plant_broken_files(to: Planter) -> None:
    whole = car_image(0, to.random)
    to.planted |= {("truncated", "train/0/900001.jpg"), ("empty", "train/1/900002.jpg"),
                   ("undecodable", "train/2/900003.jpg")}  # by render_competition
    to.put("train/0/910001.jpg", whole[:-2])  # all pixels are there, only the end marker is missing
    to.put("train/0/910025.jpg", car_image(0, to.random)[:-50], "truncated")
    to.put("train/0/910002.jpg", encoded(to.car(0), "PNG")[:9000], "truncated")
    to.put("train/0/910003.jpg", encoded(Image.new("L", (1200, 900)), "PNG"), "too_many_pixels")
    to.put("train/0/910004.jpg", bytes(4_000_001), "too_many_pixels")
    to.put("train/0/910005.jpg", to.car(0).resize((24, 20)), "too_small")
    middle = len(whole) * 3 // 4
    to.put("train/0/910006.jpg", whole[:middle] + bytes(64) + whole[middle + 64 :], "damaged")


def plant_unusual_images(to: Planter) -> None:
    to.planted |= {("wrong_file_extension", "train/3/900004.jpg"), ("non_rgb_mode", "train/4/900005.jpg")}
    exif = Image.Exif()
    exif[0x0112] = 6
    to.put("train/1/910007.jpg", encoded(to.car(1), exif=exif), "exif_orientation")
    to.put("train/1/910008.jpg", encoded(to.car(1).convert("CMYK")), "non_rgb_mode")
    to.put("train/1/910009.jpg", encoded(to.car(1).convert("RGBA"), "PNG"), "non_rgb_mode", "wrong_file_extension")
    to.put("train/1/910010.png", encoded(to.car(1), "PNG"))
    to.put("train/2/910011.jpg", to.car(2).resize((900, 140)), "extreme_aspect_ratio")
    to.put("train/2/910012.jpg", ImageEnhance.Brightness(to.car(2)).enhance(0.05), "dark")
    to.put("train/2/910013.jpg", Image.eval(to.car(2), lambda value: 250 + value // 64), "bright")
    to.put("train/2/910014.jpg", Image.new("RGB", (320, 240), (120, 130, 140)), "low_contrast")
    to.put("train/2/910015.jpg", to.car(2).filter(ImageFilter.GaussianBlur(10)), "blurred")


def plant_names_and_classes(to: Planter) -> None:
    for path in ("train/3/910016.jpg", "train/4/910016.jpg", "extra-data/0/3/a.jpg", "extra-data/1/3/a.jpg"):
        to.put(path)
    for path in ("train/5/910017.jpg", "test_upload/910017.jpg"):
        to.put(path)
    same = car_image(6, to.random)
    to.put("train/6/910018.jpg", same, "conflicting_labels")
    to.put("train/7/910019.jpg", same, "conflicting_labels")
    to.put("train/3/910020.jpg", None, "dropped")
    to.put("train/4/910021.jpg")
    to.put("extra-data/1/77/b.jpg", None, "unknown_class")
    to.put("extra-data/1/4/c.jpg")
    to.put("test_upload/a/910023.jpg", None, "duplicate_test_id")
    to.put("test_upload/b/910023.jpg")
    to.put("test_upload/910024.jpg", None, "not_in_sample")
    first = min(path.name for path in (to.folder / "test_upload").iterdir())
    to.put(f"test_upload/{first}", b"<html>", "undecodable")
    to.planted.add(("too_many_unreadable_test_images", ""))
    for label, number in (("8", 6), ("9", 3)):  # too few, and far fewer than the others
        for path in sorted((to.folder / "train" / label).iterdir())[number:]:
            path.unlink()
    to.planted |= {("too_few_images", "9"), ("class_imbalance", ""), ("too_many_unusable_images", ""),
                   ("unmatched_label_fix", "nowhere.jpg")}


def plant_in_the_sample(to: Planter) -> None:
    sample = pd.read_csv(to.folder / "sample-submission.csv", dtype=str)
    names = ["lost.jpg", "910017.jpg", "910023.jpg"]
    pd.concat([sample, pd.DataFrame({"Id": names, "Category": "0"})]).to_csv(
        to.folder / "sample-submission.csv", index=False)
    to.planted |= {("missing_test_image", "lost.jpg"), ("empty_class", "10")}
    (to.folder / "train/10").mkdir()


def rejected_archives(tmp_path: Path) -> Planted:
    """The archives that are rejected, of two unsafe ones and a valid one."""
    rejected = Planted()
    for kind, name, mode in (("path_traversal", "train/0/../../../x.jpg", 0o644),
                             ("link", "train/0/x.jpg", stat.S_IFLNK | 0o777), ("valid", "train/0/x.jpg", 0o644)):
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(member, b"/etc/passwd")
        try:
            extract(tmp_path / "x.zip", tmp_path / kind)
        except DataError:
            rejected.add((kind, name))
    return rejected


def validate(folder: Path, fixes: LabelFixes = FIXES) -> Findings:
    context = CheckContext(read_layout(folder), SETTINGS)
    fixed = apply_fixes(build_index(folder, SETTINGS), fixes, set(context.layout.class_names))
    findings = find_problems(fixed.index, context)
    findings.add(fixed.findings())
    return findings


def test_each_planted_fault_is_reported_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "cars"
    render_competition(folder, num_train=200, num_test=20)
    planter = Planter(folder)
    for plant in (plant_broken_files, plant_unusual_images, plant_names_and_classes, plant_in_the_sample):
        plant(planter)
    findings = validate(folder)
    reported = {(finding.kind, finding.path) for finding in findings.reported} | rejected_archives(tmp_path)
    planted = planter.planted | {("path_traversal", "train/0/../../../x.jpg"), ("link", "train/0/x.jpg")}
    assert (planted - reported, reported - planted) == (set(), set())
    assert {kind for kind, _ in planted} - {"path_traversal", "link"} == set(SEVERITY_BY_KIND) - UNTESTED
    with pytest.raises(DataError) as error:
        raise_on_errors(findings)
    assert len(findings.errors) == 7
    assert all(message in str(error.value) for message in findings.errors)


def test_a_single_class_is_reported(tmp_path: Path) -> None:
    render_competition(tmp_path, num_train=120, num_test=10)
    for label in range(1, 10):
        shutil.rmtree(tmp_path / "train" / str(label))
    counts = validate(tmp_path, LabelFixes()).counts
    assert counts == {"truncated": 1, "too_many_unusable_images": 1, "too_few_classes": 1}


def test_a_valid_dataset_has_no_findings(tmp_path: Path) -> None:
    render_competition(tmp_path, num_train=120, num_test=10)
    for path in tmp_path.rglob("9000*.jpg"):
        path.unlink()
    assert validate(tmp_path, LabelFixes()).counts == {}
