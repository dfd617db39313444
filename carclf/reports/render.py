"""Render self-contained HTML pages, which embed their images and need neither scripts nor a network."""

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

MAX_ROWS = 200  # of a table or a list
TEMPLATES = Path(__file__).parent


def render_template(template: str, **values: object) -> str:
    """Render a template of this folder with ``page.css``. All values are escaped, except Markup."""
    style = (TEMPLATES / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _environment().get_template(template).render(style=Markup(style), style_hash=digest, **values)


def write_page(path: Path, page: str) -> None:
    """Write a page as UTF-8. Surrogates, which file names may contain, are written as escapes."""
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
