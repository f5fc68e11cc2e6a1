"""
What an answer of Mayastor means to us: every refusal it is known to give, and all that is none of them.

A status alone says too little (a 412 can mean "done already", a 404 "no such call"), so status, kind and the name in
the message are read together. What is in no row is never taken for a clear no.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from migrator.core.model import Outcome

MAX_TOLD: Final = 300
"""Characters of an answer that go into an error's one line."""
_PREFIX: Final = "SvcError :: "


class Meaning(StrEnum):
    """What is to be made of a call that did not succeed."""

    MISTAKE = "Mistake"
    """We asked wrongly: a bad uuid, a bad body, a count out of range. Nothing happened."""
    NOT_ALLOWED = "NotAllowed"
    """No token, or none that is accepted: somebody has to configure it. Nothing happened."""
    GONE = "Gone"
    """There is no such volume, pool, node or target."""
    UNKNOWN_CALL = "UnknownCall"
    """This version does not know the call."""
    DONE_ALREADY = "DoneAlready"
    """It is as it was to be: read. A count that is there already may still be rebuilding."""
    REFUSED = "Refused"
    """Not as things are; nothing changed."""
    BUSY = "Busy"
    """Another operation on the same thing is under way. Nothing happened: back off, read."""
    IN_USE = "InUse"
    """Something still holds on to it. At -1 this is not harmless: the replica has lost its place all the same."""
    NO_ROOM = "NoRoom"
    """No pool or node qualifies. Nothing changed, but what was tried occupies nodes for up to half a minute."""
    TOO_MANY_REBUILDS = "TooManyRebuilds"
    """The cluster's limit of rebuilds is reached. Nothing changed: back off."""
    DATA_PLANE_REFUSED = "DataPlaneRefused"
    """A node said no in the middle of it; what was done until then may stay. Read, decide again."""
    NOT_NOW = "NotNow"
    """The control plane is down, or a node that it needs is. Wait; whether a write was begun nobody can tell."""
    OUTCOME_UNKNOWN = "OutcomeUnknown"
    """No answer in time, or a broken connection: it may have happened, or may still."""
    NOT_SENT = "NotSent"
    """There was no connection to send it on. Nothing happened."""
    UNREADABLE = "Unreadable"
    """An answer that Mayastor does not give: something stands between, or a version that nobody has seen."""

    @property
    def outcome(self) -> Outcome:
        """What is known of a write that was answered so."""
        return _OUTCOMES[self]

    @property
    def outcome_unknown(self) -> bool:
        """Whether a write may have happened, in full or in part, or may still."""
        return self.outcome is Outcome.UNKNOWN


_OUTCOMES: Final[Mapping[Meaning, Outcome]] = {
    Meaning.MISTAKE: Outcome.REFUSED,
    Meaning.NOT_ALLOWED: Outcome.REFUSED,
    Meaning.GONE: Outcome.CONFLICT,
    Meaning.UNKNOWN_CALL: Outcome.REFUSED,
    Meaning.DONE_ALREADY: Outcome.DONE,
    Meaning.REFUSED: Outcome.REFUSED,
    Meaning.BUSY: Outcome.BUSY,
    Meaning.IN_USE: Outcome.UNKNOWN,
    Meaning.NO_ROOM: Outcome.REFUSED,
    Meaning.TOO_MANY_REBUILDS: Outcome.BUSY,
    Meaning.DATA_PLANE_REFUSED: Outcome.UNKNOWN,
    Meaning.NOT_NOW: Outcome.UNKNOWN,
    Meaning.OUTCOME_UNKNOWN: Outcome.UNKNOWN,
    Meaning.NOT_SENT: Outcome.BUSY,
    Meaning.UNREADABLE: Outcome.UNKNOWN,
}


class _Body(msgspec.Struct, frozen=True):
    """Every refusal's body: {details, message, kind}."""

    kind: str
    message: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that is no success, understood."""

    meaning: Meaning
    status: int
    kind: str = ""
    name: str = ""
    """The name in the message, such as ReplicaCountAchieved; empty where there is none."""
    told: str = ""
    """What it says, cut short."""


class RestError(Exception):
    """A call did not succeed; one line says which call and why."""

    def __init__(self, what: str, refused: Refused) -> None:
        status = f"{refused.status} " if refused.status else ""
        super().__init__(f"{what}: {status}{refused.told}".rstrip(": "))
        self.refused = refused

    @property
    def meaning(self) -> Meaning:
        return self.refused.meaning


ANY: Final = ""
_MEANINGS: Final[Mapping[tuple[int, str, str], Meaning]] = {
    (400, ANY, ANY): Meaning.MISTAKE,
    (401, ANY, ANY): Meaning.NOT_ALLOWED,
    (403, ANY, ANY): Meaning.NOT_ALLOWED,
    (404, "NotFound", ANY): Meaning.GONE,
    (409, "Conflict", ANY): Meaning.BUSY,
    (409, "InUse", ANY): Meaning.IN_USE,
    (412, ANY, ANY): Meaning.REFUSED,
    (412, ANY, "ReplicaCountAchieved"): Meaning.DONE_ALREADY,
    (412, ANY, "CordonLabel"): Meaning.DONE_ALREADY,
    (412, ANY, "UncordonLabel"): Meaning.DONE_ALREADY,
    (412, ANY, "LabelNotFound"): Meaning.DONE_ALREADY,
    (422, "AlreadyExists", ANY): Meaning.DONE_ALREADY,
    (429, ANY, ANY): Meaning.BUSY,
    (500, ANY, ANY): Meaning.DATA_PLANE_REFUSED,
    (503, "Aborted", ANY): Meaning.OUTCOME_UNKNOWN,
    (503, "Unavailable", ANY): Meaning.NOT_NOW,
    (507, "ResourceExhausted", ANY): Meaning.NO_ROOM,
    (507, "ResourceExhausted", "MaxRebuilds"): Meaning.TOO_MANY_REBUILDS,
}
"""By status, kind and name; the closest row counts."""
_WITHOUT_BODY: Final = frozenset({401, 403, 429})
"""Statuses that a proxy or a gateway gives in Mayastor's place, meaning the same."""


def understood(status: int, body: bytes) -> Refused:
    """Tell what an answer means that is no success."""
    if status == 404 and not body.strip():
        return Refused(Meaning.UNKNOWN_CALL, status, told="this version does not know the call")
    try:
        read = _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        meaning = _MEANINGS[status, ANY, ANY] if status in _WITHOUT_BODY else Meaning.UNREADABLE
        return Refused(meaning, status, told=_line(body.decode(errors="replace")) or "an empty answer")
    name = _name(read.message)
    rows = ((status, read.kind, name), (status, ANY, name), (status, read.kind, ANY), (status, ANY, ANY))
    meaning = next((_MEANINGS[row] for row in rows if row in _MEANINGS), Meaning.UNREADABLE)
    said = " ".join(part for part in (read.kind, read.message.removeprefix(_PREFIX), read.details) if part)
    return Refused(meaning, status, read.kind, name, _line(said))


def _name(message: str) -> str:
    if not message.startswith(_PREFIX):
        return ""
    return message.removeprefix(_PREFIX).partition(":")[0].strip()


def _line(text: str) -> str:
    whole = " ".join(text.split())
    return whole if len(whole) <= MAX_TOLD else f"{whole[:MAX_TOLD]}…"


_decoder: Final = msgspec.json.Decoder(_Body)
