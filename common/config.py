"""
Settings: frozen dataclasses whose fields are flags, each with a twin in the environment.

A field `reconcile_interval_seconds: float` is the flag --reconcile-interval-seconds and the variable
RECONCILE_INTERVAL_SECONDS; the flag wins. All that can be wrong is found at the start and told in one line: what its
text shows is refused here, and what shows only at its first use (a port that is taken, a file that is not there) is
raised there as a SettingError.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from math import isfinite
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from common.version import version

_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off"})
_MOST: Final = 1e9
"""Of any number: in seconds thirty years, which nobody means, and which no clock overflows at."""
_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
"""Of gRPC's own names for where a server is; what follows them is gRPC's to read."""
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""What Kubernetes admits as the name of a namespace (RFC 1123)."""

S = TypeVar("S")


class SettingError(ValueError):
    """
    A setting cannot be followed. The message is one line: the setting, what is wrong with it, what to do.

    Raised while a service starts; it then ends as it does for a setting that cannot be read.
    """


class LogLevel(StrEnum):
    """The least severity that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Addr(NamedTuple):
    """Where a server listens; host "" is every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_addr(text: str) -> Addr:
    """
    Read "host:port", "[v6]:port" or ":port" (every interface).

    Raises ValueError, in one line, for anything else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address: write an IPv6 host in brackets, as in [::1]:8080")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not an address: write it like :8080 or 127.0.0.1:8080")
    return Addr(host, int(port))


def not_to_be_had(flag: str, addr: Addr, error: OSError) -> SettingError:
    """Make the complaint about an address that cannot be listened on."""
    # A socket's own words may go on with the address, which is told already; a resolver's codes are below 0.
    why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or str(error)
    return SettingError(f"{flag} {addr}: cannot be listened on: {why}; choose another address")


def parse_target(text: str) -> str:
    """
    Check where a service is called: "host:port", "[v6]:port", or a name of gRPC's own such as "dns:///host:port".

    Raises ValueError, in one line, for anything else.
    """
    if text.startswith(_SCHEMES):
        return text
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    fits = colon and port.isascii() and port.isdigit() and 0 < int(port) <= 65_535
    if not host or not fits or any(sign.isspace() or sign in "/[]" for sign in host):
        raise ValueError(f"{text!r} is not the address of a service: write it like localhost:50051 or [::1]:50051")
    return text


def parse_namespace(text: str) -> str:
    """Check the name of a namespace. Raises ValueError, in one line."""
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"{text!r} is not the name of a namespace: it has at most 63 small letters, digits and dashes, "
            "and begins and ends with a letter or a digit"
        )
    return text


_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "grpc_addr": parse_addr,
    "metrics_addr": parse_addr,
    "health_addr": parse_addr,
    "_addr": parse_target,
    "_namespace": parse_namespace,
}
"""What a text must look like, by the field's name or its ending; the first that fits counts."""


def setting(default: Any, help: str, *, env: str | None = None, minimum: float | None = 0) -> Any:  # noqa: A002
    """
    Declare a setting: a dataclass field with its default and one line of help.

    `env` names the environment twin where it is not the field's name in capitals. `minimum` bounds numbers from below;
    None leaves them unbounded there.
    """
    return dataclasses.field(default=default, metadata={"help": help, "env": env, "minimum": minimum})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """Settings of every service."""

    metrics_addr: str = setting(":8080", "where /metrics is served")
    health_addr: str = setting(":8081", "where /healthz, /livez and /readyz are served")
    insecure_bind: bool = setting(False, "serve gRPC in plain text on other interfaces than loopback")
    kubeconfig: str = setting("", "path of a kubeconfig; empty: the pod's service account, else ~/.kube/config")
    drain_seconds: float = setting(10.0, "how long calls under way may take to end at a shutdown")
    log_level: LogLevel = setting(LogLevel.INFO, "least severity that is logged")
    log_json: bool = setting(True, "log JSON, a line an event; false: text for a person")


def parse_settings(cls: type[S], argv: Sequence[str], environ: Mapping[str, str], *, prog: str, description: str) -> S:
    """
    Make settings from flags and the environment.

    An empty variable counts as not set. What is wrong is written to stderr in one line and ends the program with 2;
    a ValueError from the class's own __post_init__ counts as such.
    """
    settings = _settings_of(cls)
    given = _parser(settings, prog, description).parse_args(list(argv))
    values: dict[str, Any] = {}
    for item in settings:
        text: str | None = getattr(given, item.name)
        source = item.flag
        if text is None and environ.get(item.env):
            text, source = environ[item.env], item.env
        if text is None:
            continue
        try:
            values[item.name] = item.parse(text)
        except ValueError as error:
            _refuse(prog, f"{source}: {error}")
    try:
        return cls(**values)
    except ValueError as error:
        _refuse(prog, str(error))


@dataclasses.dataclass(frozen=True, slots=True)
class _Setting:
    """One field, understood."""

    name: str
    type: Any
    default: Any
    help: str
    env: str
    minimum: float | None
    group: str

    @property
    def flag(self) -> str:
        return _flag(self.name)

    def parse(self, text: str) -> Any:
        """Read a value. Raises ValueError, in one line."""
        if self.type is bool:
            return _parse_bool(text)
        if self.type in {int, float}:
            return self._parse_number(text)
        if isinstance(self.type, type) and issubclass(self.type, StrEnum):
            return _parse_enum(self.type, text)
        read = next((reader for ending, reader in _READERS.items() if self.name.endswith(ending)), None)
        if read is not None:
            read(text)
        return text

    def _parse_number(self, text: str) -> int | float:
        kind = "a whole number" if self.type is int else "a number"
        try:
            number: int | float = self.type(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not {kind}") from error
        if not isfinite(number):
            raise ValueError(f"{text!r} is not {kind}")
        if self.minimum is not None and number < self.minimum:
            raise ValueError(f"{text} is less than {self.minimum:g}")
        if abs(number) > _MOST:
            raise ValueError(f"{text} is beyond {_MOST:g}")
        return number

    @property
    def usage(self) -> str:
        """The line of help: what it is, its variable, its default."""
        choices = ""
        if isinstance(self.type, type) and issubclass(self.type, StrEnum):
            choices = f"; one of {', '.join(self.type)}"
        default = {True: "true", False: "false"}.get(self.default, self.default) if self.type is bool else self.default
        shown = "none" if default in (None, "") else f"{default:g}" if self.type is float else default
        return f"{self.help}{choices} [{self.env}] (default: {shown})".replace("%", "%%")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _parse_enum(kind: type[StrEnum], text: str) -> StrEnum:
    for member in kind:
        if member.value.casefold() == text.strip().casefold():
            return member
    raise ValueError(f"{text!r} is not one of {', '.join(kind)}")


def _settings_of(cls: type[Any]) -> tuple[_Setting, ...]:
    """Understand the fields of a settings class, the service's own before those that every service has."""
    hints = typing.get_type_hints(cls)
    home = {name: ancestor for ancestor in reversed(cls.__mro__) for name in inspect.get_annotations(ancestor)}
    ancestors = list(cls.__mro__)
    found = [
        _Setting(
            name=field.name,
            type=_plain(hints[field.name]),
            default=field.default,
            help=field.metadata["help"],
            env=field.metadata["env"] or field.name.upper(),
            minimum=field.metadata["minimum"],
            group=_title(home[field.name]),
        )
        for field in dataclasses.fields(cls)
    ]
    return tuple(sorted(found, key=lambda item: ancestors.index(home[item.name])))


def _plain(hint: Any) -> Any:
    """The type under `| None`."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _title(cls: type[Any]) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        _refuse(self.prog, f"{message}; see {self.prog} --help")


def _parser(settings: tuple[_Setting, ...], prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--flag VALUE ...]",
        description=description,
        epilog="Each setting is a flag, or the environment variable in brackets; the flag wins.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=120),
    )
    parser.add_argument("--version", action="version", version=f"{prog} {version()}")
    groups = {item.group: None for item in settings}
    for title in groups:
        group = parser.add_argument_group(title)
        for item in settings:
            if item.group == title:
                _add(group, item)
    return parser


def _add(group: argparse._ArgumentGroup, item: _Setting) -> None:
    if item.type is bool:
        # The bare flag says true, and --flag=false is possible, which a store_true could not say.
        group.add_argument(item.flag, dest=item.name, nargs="?", const="true", metavar="BOOL", help=item.usage)
        return
    metavar = {int: "N", float: "N"}.get(item.type, "TEXT")
    group.add_argument(item.flag, dest=item.name, metavar=metavar, help=item.usage)


def _refuse(prog: str, message: str) -> NoReturn:
    sys.stderr.write(f"{prog}: {' '.join(message.split())}\n")
    raise SystemExit(2)
