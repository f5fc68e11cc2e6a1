"""
What is not relied upon any more in this cluster, because it was once and something else happened.

It must outlive every process and every record, and a person must find it and be able to take it back. So it stands in
an annotation of the migrator's Lease, which the leader and all who wait for it look at every few seconds anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from common.kube.api import KubeError
from common.logs import Logger
from common.resources.meta import LEVERS_OFF
from migrator.backends.base import Result
from migrator.backends.mayastor_volume import outcome_of
from migrator.core.model import Outcome, SwitchOff
from migrator.core.steering.abilities import Ability

_KNOWN: Final = {ability.value: ability for ability in Ability}


class AnnotatedLease(Protocol):
    """What is asked of the Lease."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """As last seen."""
        ...

    async def annotate(self, key: str, change: Callable[[str], str]) -> str:
        """Change one, from what it is now; return what was stored. Raises KubeError."""
        ...


class LeversOff:
    """The annotation, read and written."""

    def __init__(self, lease: AnnotatedLease, log: Logger) -> None:
        self._lease = lease
        self._log = log
        self._text = ""
        self._off: frozenset[Ability] = frozenset()

    def __call__(self) -> frozenset[Ability]:
        """Return what is switched off, as the Lease was last seen."""
        text = self._lease.annotations.get(LEVERS_OFF, "")
        if text != self._text:
            self._text, self._off = text, self._understood(text)
        return self._off

    def _understood(self, text: str) -> frozenset[Ability]:
        words = _words(text)
        unknown = [word for word in words if word not in _KNOWN]
        if unknown:
            self._log.warning("no such ability", annotation=LEVERS_OFF, unknown=unknown, known=sorted(_KNOWN))
        off = frozenset(_KNOWN[word] for word in words if word in _KNOWN)
        self._log.warning("levers switched off", abilities=sorted(off))
        return off

    async def switch_off(self, write: SwitchOff) -> Result:
        """Add to it; what is there, words of another version included, stays."""
        added = [ability.value for ability in write.abilities]

        def with_added(text: str) -> str:
            return ",".join(dict.fromkeys([*_words(text), *added]))

        try:
            stored = await self._lease.annotate(LEVERS_OFF, with_added)
        except KubeError as error:
            return Result(outcome_of(error), f"annotation {LEVERS_OFF} of the Lease: {error}")
        missing = [word for word in added if word not in _words(stored)]
        if missing:
            return Result(Outcome.REFUSED, f"annotation {LEVERS_OFF} of the Lease was not kept: {', '.join(missing)}")
        return Result(Outcome.DONE, f"switched off: {', '.join(added)}")


def _words(text: str) -> Iterable[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
