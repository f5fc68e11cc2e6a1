"""
Users who ask for moves: some replica of the migrator, for some volume, to where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

from couchestor.migrator.v1 import migrator_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from common.placement import Move
from common.rpc.errors import RpcError
from migrator.service import MigratorService
from sandbox.world.storage import SimVolume
from tests.simulation.facts import ReplicaFact, VolumeFact
from tests.simulation.fleet import Fleet, Pod
from tests.simulation.loop import Life
from tests.simulation.process import START


class Asking:
    """Asks for moves."""

    def __init__(self, fleet: Fleet, rng: Random) -> None:
        self._sim = fleet
        self._rng = rng
        self._busy = False
        self._calm = False
        self._requests = 0
        self._failing: frozenset[str] = frozenset()
        self._stalled: frozenset[str] = frozenset()

    def _at(self, seconds: float, act: Callable[[], object]) -> None:
        def happen() -> None:
            if self._busy:
                act()

        self._sim.loop.after(seconds, happen)

    def ask(self, volume: SimVolume, *, again: bool = True) -> None:
        """Ask some replica for a move of a volume to where it is not."""
        sim, rng = self._sim, self._rng
        fact = sim.world.volume(volume.name)
        pods = [pod for pod in sim.pods.values() if pod.service is not None]
        if fact is None or not fact.replicas or not pods:
            return
        pod = rng.choice(pods)
        tiers = sim.plan.tiers
        here = tiers[fact.replicas[0].pool]
        there = [name for name, tier in tiers.items() if tier != here]
        moves = self._moves(pod, fact, volume.name, there)
        if moves is None:
            if again:
                self._at(30.0, partial(self.ask, volume, again=False))
            return
        self._requests += 1
        request = pb.StartMigrationRequest(
            request_id=f"request-{self._requests}", volume=volume.name, dry_run=rng.random() < 0.06
        )
        if len(moves) > 1 or len(fact.replicas) > 1:
            for replica, target in moves:
                request.moves.moves.add(source_pool=replica.pool, source_replica=replica.uuid, target_pool=target)
        elif rng.random() < 0.3:
            request.tier = tiers[moves[0][1]]
        else:
            request.pool = moves[0][1]
        if rng.random() < 0.4:
            request.policy.CopyFrom(self._policy())
        if rng.random() < 0.3:
            request.priority = rng.choice((0, 100))
        if rng.random() < 0.3:
            expiry = Timestamp()
            expiry.FromDatetime(START + timedelta(seconds=sim.loop.time() + rng.choice((120, 600, 3600))))
            request.not_after.CopyFrom(expiry)
        self._send(pod, lambda service: service.start_migration(request))
        if rng.random() < 0.2:
            other = rng.choice(pods)
            self._at(rng.uniform(0, 3), lambda: self._send(other, lambda service: service.start_migration(request)))

    def _moves(self, pod: Pod, fact: VolumeFact, name: str, pools: list[str]) -> list[tuple[ReplicaFact, str]] | None:
        """Choose what to ask for: most often what the migrator would not refuse, as a planner does."""
        rng = self._rng
        replicas = rng.sample(fact.replicas, len(fact.replicas) if rng.random() < 0.7 else 1)
        drawn = (
            [list(zip(replicas, rng.sample(pools, len(replicas)), strict=True)) for _ in range(8)]
            if (len(replicas) <= len(pools))
            else []
        )
        if not drawn or rng.random() < 0.1:
            return drawn[0] if drawn else None
        app = pod.app
        seen = app.backend.volumes.get(name) if app is not None else None
        if app is None or seen is None:
            return None
        subject = app.placements.subject(name, seen)
        for moves in drawn:
            asked = [Move(replica.pool, target, replica.uuid) for replica, target in moves]
            if not app.backend.refusals_of_moves(subject, asked):
                return moves
        if rng.random() < 0.5 or self._calm:
            # A pod moves to where its volume's new replica will be, which is of use in every version.
            self._sim.world.set_target(name, self._sim.world.node_of(drawn[0][0][1]))
        return None

    def _policy(self) -> pb.PolicyReference:
        found = self._sim.policy()
        if found is None:
            return pb.PolicyReference(name="gone", uid="gone", generation=1)
        return pb.PolicyReference(name=found[0], uid=found[1], generation=found[2])

    def _send(self, pod: Pod, call: Callable[[MigratorService], Any]) -> None:
        process, service = pod.process, pod.service
        if process is None or service is None or process.dead:
            return
        trace = self._sim.trace

        if process.life is not Life.RUNNING:
            return  # the connection hangs, and the caller gives up

        async def calling() -> None:
            try:
                await call(service)
            except RpcError as error:
                trace.note("people", f"{pod.name} refuses: {type(error).__name__}: {error}")

        process.start(self._sim.loop, calling())
