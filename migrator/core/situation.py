"""
What both ways of steering say alike of a migration's situation, for decisions and for people.
"""

from __future__ import annotations

from common.placement import Replica
from common.resources.meta import PARKED
from migrator.core import refusals
from migrator.core.view import View

UNPUBLISHED = "the volume is not published, and then its replicas' health cannot be known"


def subject_of(view: View) -> refusals.Subject:
    """Tell of the volume what refusals want to know."""
    volume, pv = view.volume, view.seen.pv
    return refusals.Subject(
        name=view.record.spec.pv_name,
        replica_count=volume.spec.replica_count,
        replicas=volume.replicas,
        topology=volume.spec.topology,
        size_bytes=volume.size_bytes if volume.size_bytes is not None else (pv.size_bytes if pv else None),
        being_deleted=volume.being_deleted,
        parked=pv.annotations.get(PARKED) if pv else None,
    )


def unready(view: View) -> str | None:
    """Say why no source can go yet."""
    if view.awaited:
        return f"no replica on {', '.join(view.awaited)} yet"
    if view.strange:
        return f"a replica that nobody asked for: {strangers(view.strange)}"
    if view.volume.published is False:
        return UNPUBLISHED
    if view.lost_kept:
        return f"the replica on {view.lost_kept[0].pool} is gone"
    return view.unfit((*view.arrived, *view.kept))


def originals_unfit(view: View) -> str | None:
    """Say why the new replica cannot go yet."""
    if view.lost_originals:
        return f"the replica on {view.lost_originals[0].pool} is gone"
    return view.unfit(view.originals)


def strangers(replicas: tuple[Replica, ...]) -> str:
    """Name replicas that nobody asked for."""
    return ", ".join(f"{replica.pool}" + (f" ({replica.uuid})" if replica.uuid else "") for replica in replicas)


def left_behind(view: View) -> str:
    """Tell how the volume is left."""
    held, original = view.held, view.original
    if held is None or original is None or view.seen.volume is None:
        return ""
    now = view.volume.spec.replica_count
    pools = ", ".join(replica.pool for replica in view.new)
    return f"; replica count {now}, {original.replica_count} before" + (f", replica added on {pools}" if pools else "")


def way(view: View) -> str:
    """Tell where it goes."""
    return ", ".join(f"{move.source.pool} to {move.target_pool}" for move in view.record.spec.moves)


def how_far(view: View) -> str:
    """Tell how many of several moves are made."""
    moves = view.record.spec.moves
    made = view.leg + len({move.source.pool for move in view.moves} - {replica.pool for replica in view.sources})
    return f"{made} of {len(moves)} replicas moved"
