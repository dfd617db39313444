"""Check that tracked text uses the project's vocabulary: ``python .ci/check_vocabulary.py [FILE ...]``.

Each rule is a pattern that must not occur, with the term to use instead. Variable names are checked in Python files.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RULES = {
    r"mend(s|ed|ing)?": "fix",
    r"told|(?<!study\.)tells?|telling|said|says?|saying": "report, log, print, notify, return",
    r"figures": "metrics",
    r"pictures?": "image",
    r"looks|(one|no|single|another) look|look(s|ed|ing)? (of|into|on)|looked at": "view, color signature, or check",
    r"mirror images?|mirrored": "horizontal flip",
    r"squeez(e|es|ed|ing)": "aspect-ratio jitter",
    r"answers?|answered": "predictions; for a server: responds",
    r"surest": "most confident",
    r"shares? of|a share|the share": "fraction, ratio, probability",
    r"crown(s|ed|ing)?|dethron(e|es|ed|ing)": "promote, replace",
    r"(?<!connection )refus(e|es|ed|al|als|ing)": "reject",
    r"beside": "against, next to, compared with",
    r"anew": "again, from scratch, rebuild",
    r"begun|(goes|went|go|going) on(?! to)|(taken|takes|took|take) up": "started, continues, resumed",
    r"knows": "was trained on, contains",
    r"(train|training|val|validation) side|sides? of (a|the) split|which side": "subset",
    r"(?<!there )(is|are|was|were) no (?!longer|more than)": "is not a valid X",
    r"where there (is|are) none|where there is no": "if missing",
    r"heard": "last heartbeat",
    r"stands?|lies": "is",
    r"colou?rs? of a look|colou?r?ing of|colour\w*": "color",
}
# Underscores separate words, so that identifiers are checked like text.
PATTERNS = [
    (re.compile(rf"(?<![^\W_])(?<!-)({rule})(?![^\W_])(?!-)", re.IGNORECASE), term) for rule, term in RULES.items()
]
BANNED_NAMES = {"found", "own", "told", "one", "place", "wanted"}
EXCLUDED = re.compile(r"^requirements/.*\.txt$|^LICENSE$|\.(ico|npz|png|safetensors|svg)$|^\.ci/check_vocabulary\.py$")


def tracked_files() -> list[Path]:
    """Return the tracked text files that are checked."""
    names = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in names if not EXCLUDED.search(name) and Path(name).is_file()]


def check_text(path: Path, text: str) -> Iterator[str]:
    """Yield a message for each banned phrase."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, term in PATTERNS:
            if match := pattern.search(line):
                yield f"{path}:{number}: {match[0]!r}: use {term}"


def check_names(path: Path, text: str) -> Iterator[str]:
    """Yield a message for each banned name of a variable, argument or attribute."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        else:
            continue
        if name in BANNED_NAMES:
            yield f"{path}:{node.lineno}: variable {name!r}: use the noun of the thing"


def main() -> int:
    """Print all findings; return 1 if there are any."""
    paths = [Path(name) for name in sys.argv[1:]] or tracked_files()
    findings = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        findings += check_text(path, text)
        if path.suffix == ".py":
            findings += check_names(path, text)
    print("\n".join(findings) if findings else f"Vocabulary: {len(paths)} files, no findings.")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
