"""Responses of the pages: security headers, files of the store, and errors."""

import base64
import hashlib
import mimetypes
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from carclf.dashboard import pages
from carclf.errors import CarclfError
from carclf.redaction import redact

SAFE_METHODS = ("GET", "HEAD")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'self'")
SANDBOX = "sandbox; default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
}
INLINE_TYPES = ("text/html", "image/png")
MAX_STYLES = 4  # style elements of a stored page that are allowed by their hash
HEADINGS = {401: "Log in", 403: "Not allowed", 404: "Not found", 503: "The store cannot be used"}


class SecurityHeaders:
    """ASGI middleware that adds the headers to every response; a response's own policy takes precedence."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, and add the headers to its response."""
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                defaults = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                added = [header for header in defaults if header[0] not in present]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def add_error_handlers(app: FastAPI) -> None:
    """Add the security headers to all responses, and turn errors into pages."""
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(CarclfError, _handle_carclf_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(Exception, _handle_unexpected_error)


def app_root_path(request: Request) -> str:
    """Return the path under which the app is served."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def stored_file_response(name: str, content: bytes) -> Response:
    """Return a file of the store, which is not trusted: without scripts, network, forms, or this site's origin."""
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    styles = re.findall(rb"<style>(.*?)</style>", content, re.DOTALL) if media_type == "text/html" else []
    digests = [base64.b64encode(hashlib.sha256(style).digest()).decode() for style in styles[:MAX_STYLES]]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    disposition = "inline" if media_type in INLINE_TYPES else "attachment"
    return Response(content, media_type=media_type, headers={
        "Content-Security-Policy": f"{SANDBOX}; style-src {sources}" if sources else SANDBOX,
        "Content-Disposition": f'{disposition}; filename="{re.sub(r"[^A-Za-z0-9._-]", "-", name)}"',
    })


def _handle_carclf_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CarclfError)
    status, heading = pages.describe_error(error)
    return _error_response(request, status, heading, str(error))


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    verb = "see" if request.method in SAFE_METHODS else "edit"
    texts = {401: "This page requires a login. Reload Airflow and log in.",
             403: f"You do not have permission to {verb} this DAG."}
    is_own = error.status_code == HTTPStatus.FORBIDDEN and error.detail != "Forbidden"
    text = str(error.detail) if is_own else texts.get(error.status_code, str(error.detail))
    return _error_response(request, error.status_code, HEADINGS.get(error.status_code, "Not possible"), text)


def _handle_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
    return _error_response(request, HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid request", problems)


def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    """Add the headers here: Starlette sends this response outside of all middleware, and logs the traceback."""
    response = _error_response(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong",
                               f"{type(error).__name__}. See the api-server's log for details.")
    response.headers.update(HEADERS)
    return response


def _error_response(request: Request, status: int, heading: str, text: str) -> Response:
    """Return a page for a person, JSON for a script."""
    text = redact(text)
    is_data = request.url.path.startswith(f"{app_root_path(request)}/data/")
    if "text/html" in request.headers.get("accept", "") and not is_data:
        return HTMLResponse(pages.error_page(app_root_path(request), heading, text), int(status))
    return JSONResponse({"detail": text}, int(status))
