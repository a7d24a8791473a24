"""An object store's errors in Milkrun's words: what the caller does next, and what a person should know.

The client's own text holds whole answers of the server, so only the HTTP status and S3's error code are taken from it. Codes:
Amazon S3 API reference, "Error responses".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions

from milkrun.model.errors import MilkrunError, Refused, Transient, Unreachable

OPENING = "testing the store"
"""What is done with a store that has not been reached yet."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
# Where AWS hands out the credentials of a machine's or a container's role.
_ROLE_SERVICE = re.compile(r"/latest/(?:api/token|meta-data)|//169\.254\.170\.")

_ANOTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity")
_OLD_TOKEN = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_TRY_AGAIN = (
    "RequestTimeout",
    "SlowDown",
    "OperationAborted",
    "ConditionalRequestConflict",
    "InternalError",
    "ServiceUnavailable",
)


@contextmanager
def translated(place: str, doing: str) -> Iterator[None]:
    """Turn the client's errors within the block into Milkrun's; `place` is the url, `doing` says what it is about (`writing`)."""
    try:
        yield
    except (exceptions.BaseError, OSError) as error:
        # Without the original as cause: its text shows the server's answer, and logs print causes.
        raise translation(error, place, doing) from None


def error_code(error: BaseException) -> str:
    """S3's code of the error, or the HTTP status, or nothing."""
    code, status = _CODE.search(str(error)), _STATUS.search(str(error))
    return code[1] if code else status[1] if status else ""


def translation(error: Exception, place: str, doing: str) -> MilkrunError:
    """The Milkrun error for one of the client's that came up while `doing` something with the store at `place`."""
    where = f"{place}: {doing}"
    code, status = error_code(error), _STATUS.search(str(error))
    number = int(status[1]) if status else 0
    if _ROLE_SERVICE.search(str(error)):
        return _without_credentials(where, doing)
    if code in _TRY_AGAIN or number >= 500 or number in (408, 409, 425, 429):
        return Transient(f"{where}: the store is busy or failing ({code}); trying again")
    if code == "RequestTimeTooSkewed":
        return Refused(f"{where}: the machine's clock is wrong by minutes; set it, for example by NTP")
    refusal = _refusal(error, code, number)
    if refusal:
        return Refused(f"{where}: {refusal}")
    if isinstance(error, exceptions.InvalidPathError):
        return Refused(f"{where}: the name is not one the client takes; give a plainer prefix in url")
    if "certificate" in str(error).lower():
        return Unreachable(
            f"{where}: the endpoint's TLS certificate is not trusted; is it the right endpoint?"
        )
    # No answer at all: connection refused, no such host, timeout.
    return Unreachable(f"{where}: the store can't be reached; is the endpoint right and the network up?")


def _without_credentials(where: str, doing: str) -> MilkrunError:
    if doing != OPENING:
        return Unreachable(f"{where}: the machine's role gives no credentials at the moment; trying again")
    return Refused(
        f"{where}: there are no credentials; set s3.access_key and s3.secret_key, the environment variables "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    )


def _refusal(error: Exception, code: str, number: int) -> str:
    """What is wrong and what would be right, for an answer that will stay the same; empty where it may not."""
    if code == "NoSuchBucket":
        return "there is no such bucket; create it, or correct url"
    if code in _ANOTHER_REGION or number in (301, 307, 308):
        return "the bucket is in another region or at another endpoint; set s3.region and s3.endpoint"
    if code in _WRONG_KEYS:
        return f"the store does not accept the keys ({code}); correct s3.access_key and s3.secret_key"
    if code in _OLD_TOKEN:
        return f"the temporary credentials are no longer valid ({code}); renew s3.session_token with its keys"
    forbidden = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
    if isinstance(error, forbidden) or number in (401, 403):
        return f"access is denied ({code}); the keys need s3:GetObject, s3:PutObject and s3:ListBucket here, to remove also s3:DeleteObject"
    if isinstance(error, FileNotFoundError):
        return "there is no such object or bucket; correct url"
    return f"the store refuses ({code}); is it S3-compatible, and url right?" if 400 <= number < 500 else ""
