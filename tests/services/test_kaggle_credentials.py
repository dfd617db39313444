"""Where Kaggle's credentials come from, and which of them are invalid."""

import json
from pathlib import Path

import pytest

from carclf.errors import ConfigError
from carclf.services.kaggle.credentials import Credentials, find_credentials

pytestmark = pytest.mark.usefixtures("no_kaggle_credentials")
KEY = "secret-key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "home/.kaggle").mkdir(parents=True)
    return tmp_path / "home/.kaggle"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("key", [KEY, f" {KEY}\r\n", f"\ufeff{KEY}"])
def test_the_key_file_may_have_a_byte_order_mark_and_spaces(folder: Path, encoding: str, key: str) -> None:
    path = folder / "kaggle.json"
    path.write_bytes(json.dumps({"username": "ada\n", "key": key}, ensure_ascii=False).encode(encoding))
    assert find_credentials() == Credentials(str(path), username="ada", key=KEY)


@pytest.mark.parametrize("content", [
    b'{"username":"ada","key":"%s\xff\xfe"}' % KEY.encode(), f'{{"username":"ada","key":"{KEY}'.encode(),
    f'["ada", "{KEY}"]'.encode(), b'{"username":"ada"}', b"", b'{"username":"ada","key":""}',
    '{"username":"ada","key":"secret-ключ"}'.encode(), f'{{"username":"ada","key":"{KEY} {KEY}"}}'.encode(),
])  # fmt: skip
def test_an_invalid_key_file_is_named_and_not_quoted(folder: Path, content: bytes) -> None:
    (folder / "kaggle.json").write_bytes(content)
    with pytest.raises(ConfigError, match=str(folder / "kaggle.json")) as caught:
        find_credentials()
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["access_token", "access_token.txt"])
def test_a_token_file_may_have_a_byte_order_mark_and_a_line_end(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xef\xbb\xbfsecret-token\r\n")
    assert find_credentials().token == "secret-token"


def test_a_damaged_token_file_is_reported_and_not_quoted(folder: Path) -> None:
    (folder / "access_token").write_bytes(b"secret-token\xff")
    with pytest.raises(ConfigError, match="access_token") as caught:
        find_credentials()
    assert "secret" not in repr(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"[1]", b'{"refresh_token": "r", "access_token_expiration": "soon"}'])
def test_a_damaged_login_file_is_reported(folder: Path, content: bytes) -> None:
    (folder / "credentials.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"credentials\.json"):
        find_credentials()


def test_a_token_in_a_variable_may_end_with_a_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret-token\n")
    assert find_credentials() == Credentials("KAGGLE_API_TOKEN", token="secret-token")


@pytest.mark.parametrize("value", ["secret\ntoken", "secret token", "secret-tökén", "\n"])
@pytest.mark.parametrize("name", ["KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME"])
def test_an_invalid_variable_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "ada")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        find_credentials()
    assert "secret" not in repr(caught.value)


@pytest.mark.parametrize(("given", "missing"), [
    ("KAGGLE_USERNAME", "KAGGLE_KEY"), ("KAGGLE_KEY", "KAGGLE_USERNAME"),
])
def test_the_missing_half_of_the_credentials_is_named(
    monkeypatch: pytest.MonkeyPatch, given: str, missing: str
) -> None:
    monkeypatch.setenv(given, "ada")
    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        find_credentials()
