"""Errors as OpenAI's API words them: a status, and a body that says what, where and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """Becomes the response of a request, or the last event of a stream that has begun."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        # What clients sent may hold half of a surrogate pair, which no answer can.
        message = message.encode("utf-8", "backslashreplace").decode()
        param = param and param.encode("utf-8", "backslashreplace").decode()
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        return {
            "error": {
                "message": self.message, "type": kind, "param": self.param, "code": self.code,
            }
        }  # fmt: skip

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def timed_out(seconds: float, status: int) -> ApiError:
    """408 where the client has not sent all; it may send the rest, so that the connection ends."""
    headers = {"Connection": "close"} if status == 408 else None
    message = f"The request took longer than {seconds:g} seconds"
    return ApiError(status, message, code="timeout", headers=headers)


def unsupported(param: str, what: str) -> ApiError:
    return ApiError(400, f"{param} is not supported: {what}", param=param, code="unsupported_value")
