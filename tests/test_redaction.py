"""The text that replaces secrets; tests/security/test_planted_secrets.py tests where it is applied."""

import json

import pytest

from carclf.redaction import redact


@pytest.mark.parametrize(("text", "redacted"), [
    ("http://ada:p@ss@host/x?run=r", "http://***@host/x?run=r"),
    ("url: /a.zip?X-Goog-Signature=0a&part=1", "url: /a.zip?X-Goog-Signature=***&part=1"),
    ("AWS4-HMAC-SHA256 Credential=x, Signature=0a1b", "AWS4-HMAC-SHA256 Credential=x, Signature=***"),
    ("split: created key=35f55b4f1f10b8bb", "split: created key=35f55b4f1f10b8bb"),
    ("Basic authentication failed", "Basic authentication failed"),
    ("test KAGGLE_KEY", "test KAGGLE_KEY"),
    ("a-long-secret\\nof-two-lines, of-two-lines, 'a-long-secret'", "***, ***, '***'"),
])  # fmt: skip
def test_secrets_are_replaced_and_other_text_stays(text: str, redacted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "test")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "a-long-secret\nof-two-lines")
    assert redact(text) == redacted


def test_redacted_json_is_valid() -> None:
    text = 'see "https://ada:pass@host?sig=abc" and "http://host/?token=abc"\n'
    assert json.loads(redact(json.dumps([text]))) == [redact(text)]
