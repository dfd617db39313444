"""Parse a report."""

import base64
import hashlib
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def section(self, name: str) -> str:
        """Return the text from the heading with this id to the next heading of the same level."""
        html = self.html.split(f'<h2 id="{name}">')[1].split("<h2 ")[0]
        return Page(html).text

    def assert_inert(self) -> None:
        """Assert that the page has no scripts, links to other files, event handlers or inline styles."""
        assert {name for name, _ in self.tags} & {"script", "b", "i", "u", "link", "iframe"} == set()
        assert not [key for _, attributes in self.tags for key in attributes if key.startswith("on") or key == "style"]

    def assert_self_contained(self) -> None:
        """Assert that the content security policy allows only the page's style and embedded images."""
        policy = next(tag["content"] for tag in self.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
        style = re.findall("<style>(.*?)</style>", self.html, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == (f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
                          "form-action 'none'")
        assert "http:" not in self.html
        assert "https:" not in self.html
