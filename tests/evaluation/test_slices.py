import numpy as np
import pandas as pd
import pytest

from carclf.evaluation.slices import compute_slices
from carclf.stats import wilson_interval


def test_slices_are_classes_and_equal_bins_of_size_and_brightness() -> None:
    rows = pd.DataFrame({"label": ["3", "5"] * 40, "width": [100] * 40 + [200] * 40, "height": 80,
                         "brightness": np.linspace(10, 200, 80)})
    correct = np.arange(80) >= 20  # the darkest are incorrect
    slices = compute_slices(rows, correct)
    assert [(row["by"], row["name"], row["num_images"], row["num_correct"]) for row in slices] == [
        ("class", "3", 40, 30), ("class", "5", 40, 30),
        ("megapixels", "0.008 to 0.008", 40, 20), ("megapixels", "0.016 to 0.016", 40, 40),
        ("brightness", "10 to 55.7", 20, 0), ("brightness", "58.1 to 104", 20, 20),
        ("brightness", "106 to 152", 20, 20), ("brightness", "154 to 200", 20, 20)]
    assert (slices[0]["low"], slices[0]["high"]) == wilson_interval(30, 40)
    assert slices[0]["accuracy"] == 0.75


@pytest.mark.parametrize("num", [1, 3])
def test_slices_need_enough_images_and_statistics(num: int) -> None:
    rows = pd.DataFrame({"label": ["3"] * num, "brightness": np.linspace(10, 200, num)})
    assert [row["by"] for row in compute_slices(rows, np.ones(num, bool))] == ["class", "brightness"]
