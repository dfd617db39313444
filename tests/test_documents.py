"""The tests that the documents name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [path for path in (ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")))
             if "tests/" in path.read_text()]
REFERENCE = re.compile(r"\b(?P<path>tests/[\w/]+\.py)(?:::(?P<name>test_\w+))?|`::(?P<next>test_\w+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_each_test_that_a_document_names_exists(document: Path) -> None:
    path, missing = "", []
    for match in REFERENCE.finditer(document.read_text()):
        path = match["path"] or path
        file, name = ROOT / path, match["name"] or match["next"]
        if not file.is_file() or (name and f"def {name}(" not in file.read_text()):
            missing.append(match[0])
    assert missing == []
