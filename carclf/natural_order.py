"""Natural order of names: class 2 comes before class 10."""

from collections.abc import Iterable


def sort_naturally(names: Iterable[str]) -> list[str]:
    """Return the distinct names in natural order. Names that differ only in zeros or case keep a fixed order."""
    from natsort import natsort_keygen, ns

    key = natsort_keygen(alg=ns.IGNORECASE)
    return sorted(sorted(set(names)), key=key)
