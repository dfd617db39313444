"""Natural order of names: class 2 comes before class 10."""

from collections.abc import Iterable

from natsort import natsort_keygen, ns

_natural_key = natsort_keygen(alg=ns.IGNORECASE)


def sort_naturally(names: Iterable[str]) -> list[str]:
    """Return the distinct names in natural order; names that differ only in zeros or case have a fixed order."""
    return sorted(sorted(set(names)), key=_natural_key)
