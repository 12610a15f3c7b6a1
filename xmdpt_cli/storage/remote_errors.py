"""Messages for errors of remote stores, and which errors may be temporary.

The libraries' exceptions are recognised by name, so that no library is imported.
"""

from __future__ import annotations

import socket

from xmdpt_cli.errors import XmdptError

_EXTRAS = {"sftp": "sftp", "ssh": "sftp", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_EXTRAS |= {"http": "http", "https": "http"}
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}  # HTTP's "try again"
# Classes of aiohttp, paramiko and botocore.
_PASSING = {"ClientConnectionError", "ClientPayloadError", "SSHException", "TimeoutError"}
_PASSING |= {"EndpointConnectionError", "ConnectionClosedError", "HTTPClientError"}
_REFUSED = {"ClientConnectorError", "NoValidConnectionsError", "EndpointConnectionError"}
_NOT_LET_IN = {"AuthenticationException", "BadHostKeyException", "NoCredentialsError"}
_NOT_LET_IN |= {"HostKeyError", "PasswordRequiredException"}
_KINDS = "known are sftp://, s3://, gs://, http:// and https://"
_ACCESS = {
    "sftp": "`sftp USER@HOST` must work without a question; FSSPEC_SFTP_KEY_FILENAME names a key",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to one with access",
    "gcs": "log in with: gcloud auth application-default login",
}


class HostKeyError(Exception):
    """An ssh server shows another key than known_hosts lists for it."""


def explained(protocol: str, doing: str, place: str, err: BaseException) -> XmdptError:
    """The error to report: ``doing`` ("read", "write") failed at ``place``.

    ``place`` is a URL that may be shown.
    """
    if isinstance(err, ImportError):
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'xmdpt-cli[{extra}]'" if extra else str(err)
        return XmdptError(f"{protocol}:// needs a library that is not installed", hint)
    if isinstance(err, ValueError) and "Protocol not known" in str(err):
        return XmdptError(f"{place}: no such kind of URL: {protocol}://", _KINDS)
    reason = " ".join(str(err).split()) or type(err).__name__
    if is_refused(err):
        hint = "check the address, and that the server runs and can be reached from here"
    elif isinstance(err, PermissionError) and _EXTRAS.get(protocol) == "sftp":
        hint = "the login works, but not for this folder: choose another, or change its permissions"
    elif is_shut_out(err):
        hint = _ACCESS.get(_EXTRAS.get(protocol, ""), "check the name and the password")
    elif may_pass(err):
        hint = "the connection was lost again and again: run the same command again later"
    else:
        writing = ", and that the place is writable and has room" if doing == "write" else ""
        hint = f"check the URL{writing}"
    return XmdptError(f"cannot {doing} {place}: {reason}", hint)


def cause(err: BaseException) -> BaseException:
    """The cause of an error: fsspec's http wraps lost connections in FileNotFoundError."""
    inner = err.__cause__
    if isinstance(err, FileNotFoundError) and inner is not None:
        known = may_pass(inner) or is_refused(inner) or is_shut_out(inner)
        return inner if known else err
    return err


def _kinds(err: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(err).__mro__}


def may_pass(err: BaseException) -> bool:
    if is_shut_out(err) or isinstance(err, (socket.gaierror, FileNotFoundError)):
        return False
    passing = isinstance(err, (ConnectionError, TimeoutError, EOFError)) or bool(
        _kinds(err) & (_PASSING | _REFUSED)
    )
    # paramiko's messages for a lost connection
    passing = passing or (isinstance(err, OSError) and "socket is closed" in str(err).lower())
    return passing or getattr(err, "status", None) in _PASSING_STATUS


def is_refused(err: BaseException) -> bool:
    refused = isinstance(err, (ConnectionRefusedError, socket.gaierror))
    return refused or bool(_kinds(err) & _REFUSED)


def is_shut_out(err: BaseException) -> bool:
    status = getattr(err, "status", None) in (401, 403)
    return status or isinstance(err, PermissionError) or bool(_kinds(err) & _NOT_LET_IN)
