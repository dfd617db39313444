"""How the pages are answered: with which headers, a file of the store, and what went wrong."""

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

SAFE_METHODS = ("GET", "HEAD")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'self'")
SANDBOX = "sandbox; default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
}
SHOWN_INLINE = ("text/html", "image/png")


class SecurityHeaders:
    """Puts the headers on every answer, whoever made it; an answer with a policy of its own keeps that."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in own if one[0] not in there)]
            await send(message)

        await self.app(scope, receive, sent)


def add_error_handlers(site: FastAPI) -> None:
    """The headers of all answers, and those to what cannot be answered."""
    site.add_middleware(SecurityHeaders)
    site.add_exception_handler(CarclfError, _impossible)
    site.add_exception_handler(HTTPException, _refused)
    site.add_exception_handler(RequestValidationError, _misunderstood)
    site.add_exception_handler(Exception, _unforeseen)


def app_root_path(request: Request) -> str:
    """The path under which the app itself is served."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def stored_file_response(name: str, content: bytes) -> Response:
    """A file of the store, which may hold anything: without scripts, network, forms or this site's origin."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    styles = re.findall(rb"<style>(.*?)</style>", content, re.DOTALL) if kind == "text/html" else []
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in styles[:4])
    how = "inline" if kind in SHOWN_INLINE else "attachment"
    return Response(content, media_type=kind, headers={
        "Content-Security-Policy": f"{SANDBOX}; style-src {hashes}" if hashes else SANDBOX,
        "Content-Disposition": f'{how}; filename="{re.sub(r"[^A-Za-z0-9._-]", "-", name)}"',
    })


def _impossible(request: Request, error: Exception) -> Response:
    assert isinstance(error, CarclfError)
    status, heading = pages.describe_error(error)
    return _told(request, status, heading, str(error))


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headings = {401: "Log in", 403: "Not allowed", 404: "Not found", 503: "The store cannot be used"}
    words = {401: "This page is for those who are logged in to Airflow. Load Airflow anew, and log in.",
             403: f"You may not {'see' if request.method in SAFE_METHODS else 'edit'} this DAG."}
    return _told(request, error.status_code, headings.get(error.status_code, "Not possible"),
                 words.get(error.status_code, str(error.detail)))


def _misunderstood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return _told(request, HTTPStatus.UNPROCESSABLE_ENTITY, "Not understood", wrong)


def _unforeseen(request: Request, error: Exception) -> Response:
    """Starlette answers this one outside of all middleware; the trace is in the api-server's log."""
    answer = _told(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong",
                   f"{type(error).__name__}. More is in the api-server's log.")
    answer.headers.update(HEADERS)
    return answer


def _told(request: Request, status: int, heading: str, text: str) -> Response:
    """A page for a person, JSON for a script."""
    asked_by_script = request.url.path.startswith(f"{app_root_path(request)}/data/")
    if "text/html" in request.headers.get("accept", "") and not asked_by_script:
        return HTMLResponse(pages.error_page(app_root_path(request), heading, text), int(status))
    return JSONResponse({"detail": text}, int(status))
