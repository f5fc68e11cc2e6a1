"""
The two ways of steering behind one face: what steps and rollback ask of either, without knowing which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from common.placement import Refusal
from common.reasons import Reason
from common.resources.migration import BackendKind
from migrator.core import by_levers, by_topology
from migrator.core.model import Decision, NotYet
from migrator.core.view import View


class Steering(Protocol):
    """A way of making Mayastor add one replica to a pool, and drop one that is named."""

    def refusal(self, view: View) -> Refusal | None:
        """Before anything is written: say why it could not be done."""

    def scale_up(self, view: View) -> Decision:
        """Ask for a replica more, on the target."""

    def answer_unsure(self, view: View) -> Decision | None:
        """Settle what is not known of the writes before; None if all is."""

    def foreign(self, view: View) -> tuple[Reason, str] | None:
        """See what somebody else did, besides a change of the spec that is not ours by what the journal says."""

    def why_back(self, view: View) -> tuple[Reason, str] | None:
        """Say why it cannot go on, for reasons of this way of steering."""

    def on_arrival(self, view: View) -> Decision | None:
        """See to what is to be done as soon as the new replica is there, Synced or not; None if all is."""

    def removable(self, view: View) -> bool:
        """Tell whether the source could be made the one to go as things are; every replica that stays is Synced."""

    def remove_source(self, view: View) -> Decision:
        """Ask for one less, the source; every replica that stays is Synced."""

    def no_way_back(self, view: View) -> bool:
        """Tell whether the new replica, which is complete, could not be made the one to go."""

    def remove_new(self, view: View) -> Decision | NotYet:
        """Ask for one less, the new one, as soon as that is safe."""


STEERING: Final[Mapping[BackendKind, Steering]] = {BackendKind.CRD: by_topology, BackendKind.REST: by_levers}


def steering_of(view: View) -> Steering:
    """Return the way in which this migration steers."""
    return STEERING[view.settings.backend]
