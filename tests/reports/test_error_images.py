"""Thumbnails of misclassified images, and heatmaps over them."""

from pathlib import Path

import cv2
import numpy as np

from carclf.reports.error_images import error_images, overlay_heatmap


def explain(paths: list[str], predicted: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a heatmap that is hot at a position given by the file's name."""
    explained = []
    for path in paths:
        heat = np.zeros((4, 4), np.float32)
        heat[0, int(Path(path).stem)] = 1
        explained.append((np.full((40, 40, 3), 100, np.uint8), heat))
    return explained


def test_each_error_has_its_image_and_overlay(tmp_path: Path) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 40, 3), 200 * number, np.uint8))
    errors = [{"path": f"{number}.png", "predicted": "7"} for number in (1, 0, 1)]
    pairs = error_images(errors, tmp_path, explain)
    assert pairs[0] == pairs[2] != pairs[1]
    assert all(value.startswith("data:image/jpeg;base64,") for pair in pairs for value in pair.values())
    plain = error_images([{"path": "gone.png", "predicted": "7"}, errors[0]], tmp_path, None)
    assert plain == [{"image": "", "overlay": ""}, {"image": pairs[0]["image"], "overlay": ""}]


def test_an_overlay_is_colored_where_it_is_hot_and_gray_elsewhere() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    overlay = overlay_heatmap(np.full((40, 40, 3), (200, 60, 60), np.uint8), heat)
    assert len(set(overlay[-1, -1].tolist())) == 1
    red, _, blue = overlay[0, 0].astype(int)
    assert red > blue + 40 and overlay.shape == (40, 40, 3)
