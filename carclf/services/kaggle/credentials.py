"""Who we are on Kaggle, and a client that says so."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from carclf.errors import ConfigError, ServiceError

# Another server that speaks Kaggle's protocol: the demo's and the tests'.
ENDPOINT_ENV_VAR = "CARCLF_KAGGLE_ENDPOINT"
CONNECT_TIMEOUT_SECONDS = 10.0
CREDENTIALS_HELP = (
    "Make an API token on your Kaggle account's settings page (https://www.kaggle.com/settings/api) and give it as "
    "~/.kaggle/kaggle.json with mode 600, as KAGGLE_USERNAME and KAGGLE_KEY, or as KAGGLE_API_TOKEN."
)


@dataclass(frozen=True)
class Credentials:
    """A bearer token, or a user name and key; ``source`` tells where they were found."""

    source: str
    token: str | None = None
    username: str | None = None
    key: str | None = None


def find_credentials() -> Credentials:
    """The first of Kaggle's own places that holds credentials; ConfigError where none does."""
    # KaggleApi.authenticate() would print its help and exit, want a HOME to write to, and wait on the network
    # without a time-out, all of it already on `import kaggle`. Its order is kept here.
    from kagglesdk.kaggle_env import get_access_token_from_env

    try:
        token, source = get_access_token_from_env()
        found = Credentials(str(source), token=token) if token else _from_variables() or _from_files() or _from_login()
    except OSError as error:
        # Not the whole error: the SDK tries the token itself as a path, and the error would print it.
        raise ConfigError(f"Kaggle's credentials cannot be read: {error.strerror}. {CREDENTIALS_HELP}") from None
    if found is None:
        raise ConfigError(f"There are no Kaggle credentials. {CREDENTIALS_HELP}")
    return found


def _from_variables() -> Credentials | None:
    username, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if not (username and key):
        return None
    return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username.strip(), key=key.strip())


def _from_files() -> Credentials | None:
    folders = [os.environ.get("KAGGLE_CONFIG_DIR"), "~/.kaggle", "~/.config/kaggle"]
    paths = [Path(os.path.expanduser(folder)) / "kaggle.json" for folder in folders if folder]  # noqa: PTH111
    for path in paths:
        if path.is_file():
            return _from_file(path)
    return None


def _from_file(path: Path) -> Credentials:
    try:
        content = json.loads(path.read_text())
        return Credentials(str(path), username=str(content["username"]), key=str(content["key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the file that Kaggle gives ({error!r}). {CREDENTIALS_HELP}") from error


def _from_login() -> Credentials | None:
    # What `kaggle auth login` leaves; its short-lived token is renewed through the client.
    from kagglesdk.kaggle_creds import KaggleCredentials

    login = KaggleCredentials.load(client=_client(Credentials("login", username="-", key="-"), CONNECT_TIMEOUT_SECONDS))
    if login is None:
        return None
    try:
        token = login.get_access_token()
    except requests.HTTPError as error:
        raise ConfigError(f"The login of `kaggle auth login` is no longer valid: {error}. {CREDENTIALS_HELP}") from error
    except requests.RequestException as error:
        raise ServiceError(f"Kaggle could not renew the login: {error}. Try again later.") from error
    return Credentials("kaggle auth login", token=token)


def create_client(credentials: Credentials, *, stall_seconds: float) -> Any:
    """A Kaggle client whose calls time out when nothing comes for so long."""
    return _client(credentials, stall_seconds)


def _client(credentials: Credentials, stall_seconds: float) -> Any:
    from kagglesdk.kaggle_client import KaggleClient
    from kagglesdk.kaggle_env import KaggleEnv

    endpoint = os.environ.get(ENDPOINT_ENV_VAR, "").rstrip("/")
    client = KaggleClient(
        env=KaggleEnv.PROD if endpoint else None,
        username=credentials.username,
        password=credentials.key,
        api_token=credentials.token,
    )
    http = client.http_client()
    if endpoint:
        http._endpoint = endpoint  # the SDK's table of endpoints is global: this changes one client only
    http._init_session()
    for scheme in ("http://", "https://"):
        http._session.mount(scheme, _ImpatientAdapter(stall_seconds))
    return client


class _ImpatientAdapter(HTTPAdapter):
    """The SDK sets no time-out: a server that goes silent would hold the task for ever."""

    def __init__(self, stall_seconds: float) -> None:
        super().__init__()
        self._timeout = (CONNECT_TIMEOUT_SECONDS, stall_seconds)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or self._timeout
        return super().send(request, *args, **kwargs)
