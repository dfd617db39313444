"""Kaggle credentials, and a client that uses them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from carclf.errors import ConfigError, ServiceError
from carclf.services.kaggle.addresses import require_public_address

# Another server that speaks Kaggle's protocol, for the demo and the tests.
ENDPOINT_ENV_VAR = "CARCLF_KAGGLE_ENDPOINT"
CONNECT_TIMEOUT_SECONDS = 10.0
CREDENTIALS_HELP = (
    "Create an API token on the settings page of your Kaggle account (https://www.kaggle.com/settings/api) and provide "
    "it as ~/.kaggle/kaggle.json with mode 600, as KAGGLE_USERNAME and KAGGLE_KEY, or as KAGGLE_API_TOKEN."
)


@dataclass(frozen=True)
class Credentials:
    """A bearer token, or a user name and key; ``source`` is where they come from."""

    source: str
    token: str | None = None
    username: str | None = None
    key: str | None = None


def find_credentials() -> Credentials:
    """Return the first credentials in Kaggle's order of sources; raise ConfigError if there are none."""
    # KaggleApi.authenticate() prints its help and exits, needs a writable HOME, and waits on the network without a
    # timeout, all of it on `import kaggle`. This function keeps its order.
    from kagglesdk.kaggle_env import get_access_token_from_env

    try:
        token, source = get_access_token_from_env()
        if token:
            return Credentials(str(source), token=token)
        credentials = _from_variables() or _from_files() or _from_login()
    except OSError as error:
        # Not the whole error: the SDK tries the token as a path, and the error would print it.
        raise ConfigError(f"Kaggle credentials cannot be read: {error.strerror}. {CREDENTIALS_HELP}") from None
    if credentials is None:
        raise ConfigError(f"Kaggle credentials are missing. {CREDENTIALS_HELP}")
    return credentials


def _from_variables() -> Credentials | None:
    username = os.environ.get("KAGGLE_USERNAME")
    key = os.environ.get("KAGGLE_KEY")
    if not (username and key):
        return None
    return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username.strip(), key=key.strip())


def _from_files() -> Credentials | None:
    folders = [os.environ.get("KAGGLE_CONFIG_DIR"), "~/.kaggle", "~/.config/kaggle"]
    paths = [Path(os.path.expanduser(folder)) / "kaggle.json" for folder in folders if folder]  # noqa: PTH111
    if (path := next((path for path in paths if path.is_file()), None)) is None:
        return None
    try:
        content = json.loads(path.read_text())
        return Credentials(str(path), username=str(content["username"]), key=str(content["key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"Invalid credentials file {path}: {error!r}. {CREDENTIALS_HELP}") from error


def _from_login() -> Credentials | None:
    # `kaggle auth login` leaves a short-lived token, which a client renews.
    from kagglesdk.kaggle_creds import KaggleCredentials

    client = create_client(Credentials("login", username="-", key="-"), read_timeout_seconds=CONNECT_TIMEOUT_SECONDS)
    login = KaggleCredentials.load(client=client)
    if login is None:
        return None
    try:
        token = login.get_access_token()
    except requests.HTTPError as error:
        raise ConfigError(f"The login of `kaggle auth login` has expired: {error}. {CREDENTIALS_HELP}") from error
    except requests.RequestException as error:
        raise ServiceError(f"Kaggle could not renew the login: {error}. Try again later.") from error
    return Credentials("kaggle auth login", token=token)


def create_client(credentials: Credentials, *, read_timeout_seconds: float) -> Any:
    """Return a client of Kaggle's SDK whose calls time out after ``read_timeout_seconds`` without data."""
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
        http._endpoint = endpoint  # the SDK's table of endpoints is global: this changes a single client
    http._init_session()
    for scheme in ("http://", "https://"):
        http._session.mount(scheme, _GuardedAdapter(http._endpoint, read_timeout_seconds))
    return client


class _GuardedAdapter(HTTPAdapter):
    """Adds timeouts, which the SDK does not set, and checks where redirects lead.

    Without a timeout, a server that stops responding would block the task forever.
    """

    def __init__(self, endpoint: str, read_timeout_seconds: float) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._timeout = (CONNECT_TIMEOUT_SECONDS, read_timeout_seconds)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send the request, with the default timeouts if it has none; raise ConfigError for a private address."""
        require_public_address(str(request.url), self._endpoint)
        kwargs["timeout"] = kwargs.get("timeout") or self._timeout
        return super().send(request, *args, **kwargs)
