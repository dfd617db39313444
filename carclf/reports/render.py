"""Pages that are one file: they hold their pictures and need no script and no network."""

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

MAX_ROWS = 200  # of a table or a list
HERE = Path(__file__).parent


def render_template(template: str, **values: object) -> str:
    """A template of this folder, with ``page.css``; what is not Markup is escaped."""
    style = (HERE / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _environment().get_template(template).render(style=Markup(style), style_hash=digest, **values)


def write_page(path: Path, page: str) -> None:
    """Write a page; what no UTF-8 can say, as names of files may hold, is written in escapes."""
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
