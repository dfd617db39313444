"""Kaggle credentials, and a client that uses them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from carclf.errors import ConfigError, ServiceError
from carclf.proxies import find_proxy_error
from carclf.public_addresses import require_public_address
from carclf.redaction import kaggle_files

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
    """Return the first credentials in Kaggle's order of sources; raise ConfigError if missing or invalid."""
    # KaggleApi.authenticate() prints its help and exits, needs a writable HOME, and waits on the network without a
    # timeout, all of it on `import kaggle`. This function keeps its order.
    from kagglesdk.kaggle_env import get_access_token_from_env

    # No error here has a cause, and no message repeats one: both could contain the secret.
    try:
        token, source = get_access_token_from_env()
        if token:
            return Credentials(str(source), token=_clean(token, str(source)))
        credentials = _from_variables() or _from_files() or _from_login()
    except OSError as error:
        raise ConfigError(f"Kaggle credentials cannot be read: {error.strerror}. {CREDENTIALS_HELP}") from None
    except UnicodeError:
        raise ConfigError("The file with Kaggle's access token (KAGGLE_API_TOKEN or ~/.kaggle/access_token) is not "
                          f"valid UTF-8. {CREDENTIALS_HELP}") from None
    if credentials is None:
        names = ("KAGGLE_USERNAME", "KAGGLE_KEY")
        unset = [name for name in names if not os.environ.get(name)]
        problem = "missing" if len(unset) == len(names) else f"incomplete: {unset[0]} is not set"
        raise ConfigError(f"Kaggle credentials are {problem}. {CREDENTIALS_HELP}")
    return credentials


def _clean(value: str, source: str) -> str:
    """Remove a byte order mark and whitespace at the ends, which files bring along; raise ConfigError if invalid."""
    cleaned = value.strip("\ufeff \t\r\n")
    if not cleaned or not cleaned.isascii() or not cleaned.isprintable() or " " in cleaned:
        raise ConfigError(f"The Kaggle credentials in {source} are invalid: expected one word of ASCII characters, "
                          f"without spaces or line breaks. {CREDENTIALS_HELP}")
    return cleaned


def _from_variables() -> Credentials | None:
    username = os.environ.get("KAGGLE_USERNAME")
    key = os.environ.get("KAGGLE_KEY")
    if not (username and key):
        return None
    return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=_clean(username, "KAGGLE_USERNAME"),
                       key=_clean(key, "KAGGLE_KEY"))


def _from_files() -> Credentials | None:
    path = next((path for path in kaggle_files() if path.name == "kaggle.json" and path.is_file()), None)
    if path is None:
        return None
    try:
        content = json.loads(path.read_bytes())  # from bytes, it detects UTF-8, UTF-16 and a byte order mark
        username, key = str(content["username"]), str(content["key"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"Invalid credentials file {path}: expected JSON with the texts 'username' and 'key'. "
                          f"{CREDENTIALS_HELP}") from None
    return Credentials(str(path), username=_clean(username, str(path)), key=_clean(key, str(path)))


def _from_login() -> Credentials | None:
    # `kaggle auth login` leaves a short-lived token, which a client renews.
    from kagglesdk.kaggle_creds import KaggleCredentials

    client = create_client(Credentials("login", username="-", key="-"), read_timeout_seconds=CONNECT_TIMEOUT_SECONDS)
    try:
        login = KaggleCredentials.load(client=client)
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(f"The file ~/.kaggle/credentials.json is damaged. Run `kaggle auth login` again. "
                          f"{CREDENTIALS_HELP}") from None
    if login is None:
        return None
    try:
        token = login.get_access_token()
    except requests.RequestException as error:
        if proxy_error := find_proxy_error("Could not renew the login of `kaggle auth login`", error):
            raise proxy_error from error
        if not isinstance(error, requests.HTTPError):
            raise ServiceError(f"Kaggle could not renew the login: {error}. Try again later.") from error
        raise ConfigError(f"The login of `kaggle auth login` has expired: {error}. {CREDENTIALS_HELP}") from error
    return Credentials("kaggle auth login", token=token)


def create_client(credentials: Credentials, *, read_timeout_seconds: float) -> Any:
    """Return a client of Kaggle's SDK whose calls time out after ``read_timeout_seconds`` without data."""
    from kagglesdk.kaggle_client import KaggleClient
    from kagglesdk.kaggle_env import KaggleEnv

    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if (bundle := os.environ.get(name)) and not Path(bundle).exists():
            raise ConfigError(f"The file of certificates in {name}, {bundle}, does not exist. Fix the variable.")
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
        require_public_address(str(request.url), self._endpoint, ENDPOINT_ENV_VAR)
        kwargs["timeout"] = kwargs.get("timeout") or self._timeout
        return super().send(request, *args, **kwargs)
