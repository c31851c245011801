"""Errors as OpenAI's clients expect them: a status, and an object with message, type, param and code."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mirasol.serve.queues import BusyError, UnknownIdError

log = logging.getLogger("mirasol.serve")
INVALID = "invalid_request_error"
CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class ApiError(Exception):
    """An error response."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, type: str = INVALID,
        headers: dict[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.type = status, message, code, param, type
        self.headers = headers

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


def as_api_error(error: BaseException) -> ApiError:
    """Map an exception of the engine or of a handler to an error response."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        after = {"Retry-After": f"{error.retry_after:.0f}"}
        return ApiError(429, str(error), "busy", type="rate_limit_error", headers=after)
    if isinstance(error, UnknownIdError):
        return ApiError(404, str(error), "not_found")
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        message = f"Expected a request that this server knows, found another ({error.detail}). See docs/serving.md."
        return ApiError(error.status_code, message, CODES.get(error.status_code), headers=dict(error.headers or {}))
    if isinstance(error, ValueError):
        return ApiError(400, str(error), "invalid_value")
    log.error("a request failed", exc_info=error)
    message = f"Expected an answer, found an error of the server ({type(error).__name__}). Its log says more."
    return ApiError(500, message, "server_error", type="server_error")


def add_handlers(app: FastAPI) -> None:
    """Answer every exception with an error object."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        found = as_api_error(error)
        return JSONResponse({"error": found.body}, found.status, found.headers)

    kinds = (ApiError, BusyError, UnknownIdError, RequestValidationError, HTTPException, ValueError, Exception)
    for kind in kinds:
        app.add_exception_handler(kind, answer)


def _of_validation(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it is cut off")
        return ApiError(400, f"Expected JSON, found a body that is none ({reason}). Send one JSON object.", "bad_json")
    if isinstance(first.get("input"), bytes) and not place:
        message = "Expected JSON under the header content-type: application/json, found another type. Set the header."
        return ApiError(400, message, "bad_json")
    found = repr(first.get("input"))
    found = found if len(found) <= 80 else f"{found[:80]}..."
    message = f"Expected another value of {place or 'the request'} ({first['msg']}), found {found}. Correct it."
    return ApiError(400, message, "invalid_value", place or None)
