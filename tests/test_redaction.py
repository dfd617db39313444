"""The text that replaces secrets; tests/security/test_planted_secrets.py tests where it is applied."""

import pytest

from carclf.redaction import redact, redact_values


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carclf.redaction.REFRESH_SECONDS", 1e-9)


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


def test_redacted_values_keep_numbers_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "12345678")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "planted_name")
    value = {"planted_name": "key 12345678", "metrics": [0.0123456789, 12345678, None, "https://ada:pass@host"]}
    assert redact_values(value) == {
        "planted_name": "key ***", "metrics": [0.0123456789, 12345678, None, "https://***@host"]}


@pytest.mark.parametrize(("name", "value"), [
    ("PGPASSWORD", "SECRET"),
    ("SMTP_PASS", "SECRET"),
    ("MYSQL_PWD", "SECRET"),
    ("REDIS_AUTH", "SECRET"),
    ("AIRFLOW_CONN_DB", '{"conn_type": "http", "login": "ada", "password": "SECRET"}'),
    ("AIRFLOW_CONN_S3", r'{"conn_type": "aws", "extra": "{\"aws_secret_access_key\": \"SECRET\"}"}'),
])  # fmt: skip
def test_secrets_of_other_programs_are_redacted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"planted 1, 2: {name}"
    monkeypatch.setenv(name, value.replace("SECRET", secret))
    assert redact(f"ada: {secret}") == "ada: ***"


def test_the_working_folder_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/home/cars-folder")
    assert redact("/home/cars-folder/store") == "/home/cars-folder/store"


def test_a_secret_that_has_been_replaced_is_still_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("first-token", "second-token"):
        monkeypatch.setenv("KAGGLE_API_TOKEN", token)
        assert redact(token) == "***"
    assert redact("first-token, second-token\n") == "***, ***\n"
