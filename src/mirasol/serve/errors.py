"""Error responses in OpenAI's format: a status, and an object with message, type, param and code."""

import json
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from mirasol.serve.queues import BusyError, UnknownIdError

log = logging.getLogger("mirasol.serve")
INVALID = "invalid_request_error"
CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
M = TypeVar("M", bound=BaseModel)


class ApiError(HTTPException):
    """An error response.

    It is an HTTPException because FastAPI reports every other exception in `receive` as an unreadable body.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, type: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(status, message, headers)
        self.code, self.param, self.type = code, param, type

    def __str__(self) -> str:
        return self.detail

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"message": self.detail, "type": self.type, "param": self.param, "code": self.code}


def invalid(message: str, param: str | None = None) -> ApiError:
    """Return the refusal of a value."""
    return ApiError(400, message, "invalid_value", param)


def wrong(param: str, expected: str, found: Any, remedy: str) -> ApiError:
    """Return the refusal of a field: its name, the expected value, the value found, and the remedy."""
    return invalid(f"Expected {param} to be {expected}, found {found!r:.80}. {remedy}.", param)


def validated(model: type[M], value: Any, where: str = "") -> M:
    """Return a value as a model of pydantic.

    Raises:
        ApiError: A field is wrong. `where` is the place of the value in the request.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _of_validation(error.errors()[0], where, ", ".join(model.model_fields)) from None


def as_api_error(error: BaseException) -> ApiError:
    """Return the error response for an exception of the engine or of a handler."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        after = {"Retry-After": f"{error.retry_after:.0f}"}
        return ApiError(429, str(error), "busy", type="rate_limit_error", headers=after)
    if isinstance(error, UnknownIdError):
        return ApiError(404, str(error), "not_found")
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors()[0])
    if isinstance(error, HTTPException):
        message = f"Expected a method and path of this server, found another ({error.detail}). See docs/serving.md."
        return ApiError(error.status_code, message, CODES.get(error.status_code), headers=error.headers)
    if isinstance(error, ValueError):
        return ApiError(400, str(error), "invalid_value")
    log.error("a request failed", exc_info=error)
    message = f"Expected an answer, found an error of the server ({type(error).__name__}). Read the server's log."
    return ApiError(500, message, "server_error", type="server_error")


class AsciiResponse(JSONResponse):
    """JSON in ASCII, because a request may contain half of a surrogate pair, which UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content).encode()


def error_response(error: BaseException, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an exception as a response."""
    found = as_api_error(error)
    return AsciiResponse({"error": found.body}, found.status_code, {**(found.headers or {}), **(headers or {})})


def add_handlers(app: FastAPI) -> None:
    """Answer every exception with an error object."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    for kind in (HTTPException, RequestValidationError, BusyError, ValueError, Exception):
        app.add_exception_handler(kind, answer)


def _of_validation(error: Any, where: str = "", known: str = "") -> ApiError:
    place = ".".join(str(part) for part in (where, *error["loc"]) if part not in ("", "body"))
    if error["type"] == "json_invalid":
        reason = error.get("ctx", {}).get("error", "the body ends early")
        return ApiError(400, f"Expected JSON, found a body that is not ({reason}). Send one JSON object.", "bad_json")
    if isinstance(error["input"], bytes) and not place:
        message = "Expected JSON under the header content-type: application/json, found another type. Set the header."
        return ApiError(400, message, "bad_json")
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        reason = "Input should be an object"
    elif error["type"] == "extra_forbidden" and len(error["loc"]) == 1 and known:
        reason = f"Fields are {known}"
    found = f"{error['input']!r:.80}"
    return invalid(f"Expected a valid {place or 'request'} ({reason}), found {found}. Correct it.", place or None)
