"""Render self-contained HTML pages, which embed their images and need neither scripts nor a network."""

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from carclf.formatting import MAX_CLASS_NAME, format_count, shorten

MAX_ROWS = 200  # of a table or a list
MAX_CLASSES = 30  # in a confusion matrix, and in a table before it is folded
FOLDER = Path(__file__).parent


def render_template(template: str, **values: object) -> str:
    """Render a template of this folder with ``page.css``. All values are escaped, except Markup."""
    style = embedded_style((FOLDER / "page.css").read_text())
    return create_environment(FOLDER).get_template(template).render(**style, **values)


def embedded_style(style_sheet: str) -> dict[str, str]:
    """Return a style sheet's text and hash, by which ``page.html`` embeds the style sheet and allows it."""
    digest = base64.b64encode(hashlib.sha256(style_sheet.encode()).digest()).decode()
    return {"style": Markup(style_sheet), "style_hash": digest}


def write_page(path: Path, page: str) -> None:
    """Write a page as UTF-8. Surrogates, which file names may contain, are written as escapes."""
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def format_class(name: str, max_length: int = MAX_CLASS_NAME) -> str:
    """Return a class name for HTML, shortened, with the whole name as its tooltip."""
    short = shorten(name, max_length)
    tooltip = Markup(' title="{}"').format(name) if short != name else ""
    return Markup("<bdi{}>{}</bdi>").format(tooltip, short)


@cache
def create_environment(*folders: Path) -> jinja2.Environment:
    """Return the environment of the templates in some folders, created once."""
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {"class_name": format_class, "counted": format_count}
    return environment
