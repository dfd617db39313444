"""The table of the gallery."""

from carclf.demo.gallery.competitions import COMPETITIONS
from carclf.demo.gallery.datasets import DATASETS, REJECTED

ENTRIES = {entry.name: entry for entry in (*COMPETITIONS, *DATASETS, *REJECTED)}
