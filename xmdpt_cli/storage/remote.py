"""Stores behind URLs, through fsspec: sftp://, s3://, gs://, http(s):// and its other protocols.

Keys, passwords and endpoints are configured as fsspec's users do: in the URL, in
``~/.config/fsspec/*.json`` or in the environment (``FSSPEC_SFTP_KEY_FILENAME=...``,
``FSSPEC_S3='{"endpoint_url": "..."}'``); sftp also asks the ssh agent and ``~/.ssh``, http
``~/.netrc``. Passwords in URLs are never printed or stored. A host that
``~/.ssh/known_hosts`` lists must show that key; one it does not list is accepted.
"""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.storage.remote_errors import HostKeyError, cause, explained, is_refused, may_pass
from xmdpt_cli.utils.redact import masked
from xmdpt_cli.utils.safe_names import plain

T = TypeVar("T")

TRIES = 5  # attempts for errors that can be temporary
WAIT = 0.25  # seconds before the second try, then twice as long each time
TIMEOUT = 20  # seconds for an ssh server to answer; paramiko has no limit of its own

_READ_ONLY = {"http", "https"}
# Protocols where unfinished files are visible and a rename is atomic; object stores show only
# complete uploads, and rename by copying.
_RENAMING = {"sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs"}
_REQUEST = 32_768  # bytes, sftp's largest that every server answers whole
_WRITABLE = "give a folder, or a URL that can be written: sftp://, s3://, gs://"


class RemoteStore:
    """A folder behind a URL (the protocol ``Store``); connects at the first use.

    Each thread has its own connection. After an error that may be temporary (a lost connection,
    HTTP's 503) an operation is repeated, up to ``TRIES`` times in all, unless the server was never
    reached.
    """

    folder = None

    def __init__(self, url: str) -> None:
        self._given = url.rstrip("/")
        try:
            parts = urlsplit(self._given)
        except ValueError as err:  # half of an IPv6 address, for instance
            raise ConfigError(f"not a URL: {self._given} ({err})") from None
        self.protocol = parts.scheme.lower()
        self._secrets = {s for s in (parts.password, unquote(parts.password or "")) if s}
        self.url = masked(self._given)
        if self.read_only and (parts.query or parts.fragment):
            raise XmdptError(
                f"{self.url.split('?')[0].split('#')[0]}?...: a folder's URL ends with its path",
                "give the URL of the folder that holds dataset.json",
            )
        self._local = threading.local()
        self._reached = False
        self._scratch: Path | None = None

    @property
    def read_only(self) -> bool:
        return self.protocol in _READ_ONLY

    # reading

    def size(self, name: str) -> int | None:
        def ask(system: Any) -> int | None:
            system.invalidate_cache()
            info = system.info(self._path(name))
            return None if info["type"] == "directory" else info["size"]

        try:
            return self._do("look at", name, ask)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        if self.read_only:
            raise XmdptError(f"{self.url}: web servers list no folders", _WRITABLE)

        def ask(system: Any) -> list[str]:
            system.invalidate_cache()
            found: list[str] = system.ls(self._path(""), detail=False)
            return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found})

        try:
            return self._do("list", "", ask)
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        return self._do("read", name, lambda system: _read(system, self._path(name), 0, None))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        data = self._do("read", name, lambda s: _read(s, self._path(name), offset, length))
        if len(data) > length:
            raise XmdptError(
                f"the server of {self.url} sends whole files instead of the requested ranges",
                "serve it with range requests (nginx does), or train from a copy: --data-cache DIR",
            )
        return data

    # writing

    def write(self, name: str, data: bytes) -> None:
        self._put(name, lambda system, path: system.pipe_file(path, data))

    def scratch(self, name: str) -> Path:
        """A file in a private folder of this machine, which is removed at exit."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="xmdpt-"))
            atexit.register(shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch / f"{plain(name, self.url)}.part"

    def put(self, file: Path, name: str) -> None:
        self._put(name, lambda system, path: system.put_file(str(file), path))
        file.unlink()

    def _put(self, name: str, upload: Callable[[Any, str], object]) -> None:
        if self.read_only:
            raise XmdptError(f"cannot write to {self.url}: web servers are read only", _WRITABLE)

        def work(system: Any) -> None:
            path = self._path(name)
            if self.protocol not in _RENAMING:
                upload(system, path)
                return
            system.makedirs(self._path(""), exist_ok=True)
            try:
                upload(system, f"{path}.part")
                _rename(system, f"{path}.part", path)
            except Exception:
                with suppress(Exception):  # the server may be gone
                    system.rm_file(f"{path}.part")
                raise

        try:
            self._do("write", name, work)
        except FileNotFoundError:  # the bucket; folders are made
            raise XmdptError(
                f"cannot write {self.url}/{name}: the place does not exist",
                "make it, or check the URL",
            ) from None

    def remove(self, name: str) -> None:
        if self.read_only:
            raise XmdptError(f"cannot remove at {self.url}: web servers are read only", _WRITABLE)
        with suppress(FileNotFoundError):
            self._do("remove", name, lambda system: system.rm_file(self._path(name)))

    # the connection

    def _path(self, name: str) -> str:
        root: str = self._local.root
        return f"{root}/{plain(name, self.url)}" if name else root or "/"

    def _system(self) -> Any:
        """This thread's connection; fsspec would share one between threads, or keep a dead one."""
        if getattr(self._local, "system", None) is None:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            options = _ssh_options() if self.protocol in ("sftp", "ssh") else {}
            if self.read_only:
                options = _netrc_options(self._given)
            system, root = url_to_fs(self._given, skip_instance_cache=True, **options)
            if hasattr(system, "ftp") and hasattr(system.ftp, "get_channel"):
                system.ftp.get_channel().settimeout(3 * TIMEOUT)  # a server that stops answering
            self._local.system, self._local.root = system, root.rstrip("/")
        return self._local.system

    def _do(self, doing: str, name: str, work: Callable[[Any], T]) -> T:
        """``work(file system)``, repeated after temporary errors. FileNotFoundError is raised."""
        for attempt in range(TRIES):
            try:
                done = work(self._system())
                self._reached = True
                return done
            except XmdptError:
                raise
            except Exception as raised:  # each library has its own exceptions
                err = cause(raised)
                if isinstance(err, FileNotFoundError) or getattr(err, "status", None) == 404:
                    self._reached = True
                    raise FileNotFoundError(f"{self.url}/{name}".rstrip("/")) from None
                waiting = may_pass(err) and (self._reached or not is_refused(err))
                if attempt == TRIES - 1 or not waiting:
                    raise self._explained(doing, name, err) from None
                self._local.system = None  # connect again
                time.sleep(WAIT * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _explained(self, doing: str, name: str, err: BaseException) -> XmdptError:
        place = f"{self.url}/{name}" if name else self.url
        error = explained(self.protocol, doing, place, err)
        for secret in self._secrets:  # a library's message may quote the whole URL
            error.message = error.message.replace(secret, "***")
        return XmdptError(error.message, error.hint)


def _read(system: Any, path: str, offset: int, length: int | None) -> bytes:
    """The bytes of a file, or of a part of it; b"" behind its end."""
    if hasattr(system, "ftp") and hasattr(system.ftp, "posix_rename"):
        # paramiko waits for each request of 32 kB, except in readv, which sends them ahead; a read
        # of more than one request copies its buffer for each
        with system.open(path, "rb") as file:
            size = file.stat().st_size
            end = size if length is None else min(size, offset + length)
            begins = range(offset, end, _REQUEST)
            return b"".join(file.readv([(at, min(_REQUEST, end - at)) for at in begins]))
    try:
        if length is None:
            return bytes(system.cat_file(path))
        data: bytes = system.cat_file(path, start=offset, end=offset + length)
        return data
    except Exception as err:
        if getattr(err, "status", None) == 416 or "not satisfiable" in str(err):  # HTTP, S3
            return b""
        raise


def _rename(system: Any, old: str, new: str) -> None:
    """Rename atomically if the server supports it; plain sftp version 3 does not overwrite."""
    try:
        system.mv(old, new)
    except FileNotFoundError:
        raise
    except OSError as err:
        if not hasattr(system, "ftp") or "unsupported" not in str(err).lower():
            raise
        if system.exists(new):
            system.rm_file(new)
        system.ftp.rename(old, new)


def _netrc_options(url: str) -> dict[str, Any]:
    """User and password of a web server from ``~/.netrc`` (or ``$NETRC``), as curl reads them;
    empty if the URL or fsspec's configuration contains its own."""
    import netrc

    from fsspec.config import conf  # type: ignore[import-untyped]

    parts = urlsplit(url)
    if "@" in parts.netloc or conf.get(parts.scheme):
        return {}
    try:
        path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
        found = netrc.netrc(path).authenticators(parts.hostname or "")
    except FileNotFoundError:
        return {}
    except (OSError, netrc.NetrcParseError) as err:
        raise XmdptError(f"cannot read {path}: {err}", f"chmod 600 {path}") from None
    if found is None:
        return {}
    name, account, password = found
    user = base64.b64encode(f"{name or account or ''}:{password or ''}".encode()).decode()
    return {"client_kwargs": {"headers": {"Authorization": f"Basic {user}"}}}


def _ssh_options() -> dict[str, Any]:
    """Options that fsspec's ssh lacks: timeouts and a check of known_hosts."""
    import paramiko  # type: ignore[import-untyped]
    from fsspec.config import conf
    from fsspec.implementations import sftp  # type: ignore[import-untyped]

    class KnownHosts(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            path = os.path.expanduser("~/.ssh/known_hosts")
            listed = paramiko.HostKeys(path if os.path.isfile(path) else None)
            if listed.lookup(hostname) is not None and not listed.check(hostname, key):
                raise HostKeyError(f"{hostname} shows a key that is not the one in {path}")

    options: dict[str, Any] = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout"), TIMEOUT)
    if hasattr(sftp, "HOST_KEY_POLICIES"):
        options["host_key_policy"] = KnownHosts()
    configured = {**conf.get("sftp", {}), **conf.get("ssh", {})}
    return {name: value for name, value in options.items() if name not in configured}
