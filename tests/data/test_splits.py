import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.data.splits import stratified
from carclf.errors import DataError


def index(contents: dict[str, tuple[int, str]]) -> pd.DataFrame:
    """Rows by id from (label, content)."""
    return pd.DataFrame(
        [{"id": name, "path": f"train/{label}/{name}", "label": label, "problem": "",
          "sha256": hashlib.sha256(content.encode()).hexdigest()} for name, (label, content) in contents.items()]
    )


def images(draw: st.DrawFn) -> dict[str, tuple[int, str]]:
    counts = draw(st.lists(st.integers(4, 60), min_size=2, max_size=4))
    rows = {f"{c}-{i}.jpg": (c, f"{c}-{i}") for c, count in enumerate(counts) for i in range(count)}
    copies = draw(st.integers(0, 5))
    return rows | {f"copy{i}.jpg": (0, f"0-{i % 4}") for i in range(copies)}


@settings(max_examples=60, deadline=None)
@given(st.composite(images)(), st.floats(0.1, 0.5), st.integers(0, 9), st.randoms())
def test_a_split_is_stratified_grouped_and_independent_of_the_order_of_rows(rows, fraction, seed, random) -> None:
    split = stratified(index(rows), val_fraction=fraction, seed=seed)
    assert sorted(split["id"]) == sorted(rows)
    assert (split.groupby("sha256")["subset"].nunique() == 1).all()
    for _, members in split.drop_duplicates("sha256").groupby("label"):
        wanted = min(max(len(members) * fraction, 1), len(members) - 1)
        assert abs((members["subset"] == "val").sum() - wanted) <= 0.5
    shuffled = list(rows.items())
    random.shuffle(shuffled)
    pd.testing.assert_frame_equal(stratified(index(dict(shuffled)), val_fraction=fraction, seed=seed), split)


def test_a_picture_filed_under_two_classes_stays_on_one_side() -> None:
    rows = {f"{c}-{i}.jpg": (c, f"{c}-{i}") for c in range(2) for i in range(20)}
    rows |= {f"both-{i}.jpg": (1, f"0-{i}") for i in range(20)}
    split = stratified(index(rows), val_fraction=0.3, seed=1)
    assert (split.groupby("sha256")["subset"].nunique() == 1).all()


def test_unusable_and_test_pictures_are_left_out() -> None:
    rows = index({f"{i}.jpg": (i % 2, str(i)) for i in range(20)})
    rows.loc[0, "problem"], rows.loc[1, "label"] = "broken", -1
    assert len(stratified(rows, val_fraction=0.2, seed=0)) == 18


def test_a_class_of_copies_alone_is_refused() -> None:
    rows = index({"a": (0, "x"), "b": (0, "y"), "c": (1, "z"), "d": (1, "z")})
    with pytest.raises(DataError, match="Class '1' has one picture only"):
        stratified(rows, val_fraction=0.5, seed=0)
