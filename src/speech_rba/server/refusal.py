"""A request that is refused, and the body that says why, in the form of OpenAI's errors."""

from fastapi.responses import JSONResponse

TYPES = {401: "authentication_error", 429: "rate_limit_error"}  # of other statuses below 500: the request's


class Refusal(Exception):
    """`param` names the field of the request at fault, `code` the kind of fault for programs."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    """The JSON body of an error."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(refusal: Refusal) -> JSONResponse:
    """The response to a refused request; a full queue says when to try again."""
    headers = {429: {"Retry-After": "2"}, 401: {"WWW-Authenticate": "Bearer"}}.get(refusal.status)
    body = error_body(refusal.status, str(refusal), refusal.param, refusal.code)
    return JSONResponse(body, refusal.status, headers)
