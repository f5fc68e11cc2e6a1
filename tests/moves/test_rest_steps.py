"""
What becomes of a move over Mayastor's REST API, whatever happens meanwhile: one end, its reason, and nothing left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from common.kube.api import VOLUME_MIGRATIONS
from common.reasons import Reason
from common.resources.migration import MigrationState, VolumeMigration
from migrator.backends.rest.answers import Meaning, Refused, RestError
from migrator.core.steering.abilities import Ability
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.choosing import candidates
from sandbox.world.control.plane import ControlSettings
from sandbox.world.mayastor import Faults
from sandbox.world.storage import SimPool, SimVolume, State
from sandbox.world.versions import MayastorVersion
from tests.moves.rest_moves import CACHE, OPERATION, POLL, POOLS, UUID, Happening, Scene, a_pool, a_volume, told
from tests.simulation.loop import VirtualLoop

SYNCING, DOWN = MigrationState.WAITING_SYNC, MigrationState.SCALING_DOWN
COUNT = rf"volumes/{UUID}/replica_count"


def once(state: MigrationState, act: Callable[[Scene], object]) -> Happening:
    """Do something when the migration has come to a state."""
    done: list[bool] = []

    async def happening(scene: Scene, record: VolumeMigration) -> None:
        if record.status.state is state and not done:
            done.append(True)
            act(scene)

    return happening


def failing(control: ControlSettings) -> ControlSettings:
    return with_faults(control, Faults(failing_rebuilds=frozenset({UUID})))


def stalled(control: ControlSettings) -> ControlSettings:
    return with_faults(control, Faults(stalled_rebuilds=frozenset({UUID})))


def with_faults(control: ControlSettings, faults: Faults) -> ControlSettings:
    return replace(control, storage=replace(control.storage, faults=faults))


def tell(
    reason: Reason,
    pools: list[str],
    *moves: tuple[str, str],
    volume: SimVolume | None = None,
    version: MayastorVersion = MayastorVersion.OPENEBS_4_3,
    prepare: Callable[[Scene], object] = lambda _scene: None,
    happening: Happening | None = None,
    timeout: float = 120.0,
    preservation: bool = False,
    check: Callable[[Scene, VolumeMigration], object] = lambda _scene, _record: None,
) -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, volume or a_volume(), version=version)
        prepare(scene)
        scene.happening = happening
        name = await scene.admit(*moves, timeout=timeout, preservation=preservation)
        assert await scene.live(name)
        await scene.ended(name, reason, pools=pools)
        check(scene, await scene.record(name))

    told(story)


# --- it moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", MayastorVersion, ids=str)
def test_a_volume_whose_target_is_where_it_goes_moves_in_every_version(version: MayastorVersion) -> None:
    tell(Reason.MOVED, ["nvme-3"], volume=a_volume(target_node="node-3"), version=version)


@pytest.mark.parametrize("version", [MayastorVersion.OPENEBS_4_3, MayastorVersion.OPENEBS_4_4], ids=str)
def test_the_source_goes_by_its_cordon_where_that_counts_wherever_the_target_is(version: MayastorVersion) -> None:
    tell(Reason.MOVED, ["nvme-3"], volume=a_volume(target_node="node-1"), version=version)


def test_a_label_tells_two_pools_of_one_node_apart() -> None:
    tell(Reason.MOVED, ["nvme-2"], ("sata-1", "nvme-2"), volume=a_volume(inclusion={"site": "a"}))


def test_the_replicas_of_a_volume_move_one_after_another() -> None:
    def check(scene: Scene, record: VolumeMigration) -> None:
        counts = [sent.rpartition("/")[2] for sent in scene.writes.sent if f"{UUID}/replica_count" in sent]
        assert counts == ["3", "2", "3", "2"]
        assert len(record.status.new_replicas) == 2

    moves = ("sata-2", "nvme-3"), ("sata-1", "nvme-2")
    volume = a_volume(("sata-1", "sata-2"), inclusion={"site": "a"})
    tell(Reason.MOVED, ["nvme-2", "nvme-3"], *moves, volume=volume, check=check)


def test_nothing_is_removed_where_sources_are_preserved() -> None:
    tell(Reason.SOURCE_PRESERVED, ["nvme-3", "sata-1"], preservation=True)


def test_a_copy_that_begins_anew_because_the_pod_moved_is_waited_for() -> None:
    def move_pod(scene: Scene) -> None:
        scene.front.set_target(UUID, None)
        scene.front.set_target(UUID, "node-3")

    tell(Reason.MOVED, ["nvme-3"], happening=once(SYNCING, move_pod))


# --- it goes back ----------------------------------------------------------------------------------------------------


async def cancel(scene: Scene, record: VolumeMigration) -> None:
    if record.status.state is SYNCING and not record.spec.cancel_requested:
        await scene.world.patch(VOLUME_MIGRATIONS, record.metadata.name, {"spec": {"cancelRequested": True}})


def test_a_cancelled_move_is_taken_back() -> None:
    tell(Reason.CANCELLED, ["sata-1"], happening=cancel)


@pytest.mark.parametrize("gib", [10, 400])
def test_a_copy_that_might_be_complete_by_then_is_not_taken_for_incomplete(gib: int) -> None:
    """Nothing but its being incomplete would make the new replica go: only where that lasts is it relied upon."""

    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, a_volume(target_node="node-3", gib=gib), version=MayastorVersion.LATE_2024)
        scene.happening = cancel
        name = await scene.admit(timeout=600.0)
        assert await scene.live(name)
        back = (await scene.record(name)).status.reason == Reason.CANCELLED
        assert back == (gib == 400)
        await scene.ended(name, {Reason.CANCELLED, Reason.MOVED}, pools=["sata-1" if back else "nvme-3"])

    told(story)


def test_a_copy_that_fails_is_taken_back() -> None:
    volume = replace(a_volume(), self_heal=False)
    tell(Reason.REBUILD_FAILED, ["sata-1"], volume=volume, prepare=lambda scene: scene.front.set_control(failing))


def test_a_copy_that_self_healing_put_in_the_place_of_ours_is_taken_back() -> None:
    tell(Reason.UNKNOWN_REPLICA, ["sata-1"], prepare=lambda scene: scene.front.set_control(failing))


def test_a_copy_that_stalls_is_taken_back_when_its_time_is_up() -> None:
    tell(Reason.TIMED_OUT, ["sata-1"], prepare=lambda scene: scene.front.set_control(stalled), timeout=40.0)


def test_a_snapshot_made_meanwhile_stays_with_its_replica() -> None:
    def snapshot(scene: Scene) -> None:
        scene.front.describe_volume(UUID, lambda entry: replace(entry, snapshots=1))

    tell(Reason.HAS_SNAPSHOTS, ["sata-1"], happening=once(SYNCING, snapshot))


def test_the_first_replica_stays_moved_where_the_second_cannot() -> None:
    moves = ("sata-2", "nvme-3"), ("sata-1", "nvme-2")
    volume = a_volume(("sata-1", "sata-2"), inclusion={"site": "a"})
    happening = once(DOWN, lambda scene: scene.front.set_control(failing))
    tell(Reason.PARTLY_MOVED, ["nvme-3", "sata-1"], *moves, volume=volume, happening=happening)


# --- it stops where it is --------------------------------------------------------------------------------------------


def test_a_volume_that_is_unpublished_in_mid_move_is_left_with_one_replica_more() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        scene.happening = once(SYNCING, lambda scene: scene.front.set_target(UUID, None))
        name = await scene.admit(timeout=60.0)
        assert await scene.live(name)
        record = await scene.record(name)
        assert (record.status.state, record.status.reason) == (MigrationState.FAILED, Reason.REPLICA_LEFT)
        assert scene.pools_of() == ["nvme-3", "sata-1"]
        scene.nothing_left()

    told(story)


def test_a_target_that_was_shut_down_and_holds_on_to_its_replicas_is_not_risked() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        scene.happening = once(SYNCING, lambda scene: scene.front.set_target(UUID, "node-3"))
        name = await scene.admit(timeout=40.0)
        assert await scene.live(name)
        record = await scene.record(name)
        assert (record.status.state, record.status.reason) == (MigrationState.FAILED, Reason.REPLICA_LEFT)
        assert scene.pools_of() == ["nvme-3", "sata-1"]
        assert "nexus" in record.status.message
        scene.nothing_left()

    told(story)


def test_a_volume_that_is_published_again_in_time_moves_on() -> None:
    async def happening(scene: Scene, record: VolumeMigration) -> None:
        since = next((s.elapsed_seconds for s in record.status.steps if s.state is SYNCING), None)
        if since is None or record.status.state is not SYNCING:
            return
        published = scene.front.volumes[UUID].target_node is not None
        waited = scene.loop.time() - since > 60.0
        if published == (not waited):
            scene.front.set_target(UUID, "node-4" if waited else None)

    tell(Reason.MOVED, ["nvme-3"], happening=happening)


def test_a_count_that_somebody_changes_is_respected() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)

        async def happening(scene: Scene, record: VolumeMigration) -> None:
            if record.status.state is DOWN and scene.front.volumes[UUID].replica_count == 2:
                await scene.front.ask("PUT", f"/v0/volumes/{UUID}/replica_count/3")

        scene.happening = happening
        name = await scene.admit()
        assert await scene.live(name)
        record = await scene.record(name)
        assert (record.status.state, record.status.reason) == (MigrationState.FAILED, Reason.REPLICA_COUNT_CHANGED)
        assert scene.front.volumes[UUID].replica_count == 3
        scene.nothing_left()

    told(story)


def test_a_volume_that_is_deleted_takes_its_move_with_it() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        gone: list[bool] = []

        async def happening(scene: Scene, record: VolumeMigration) -> None:
            if record.status.state is SYNCING and not gone:
                gone.append(True)
                scene.front.set_target(UUID, None)
                await scene.front.ask("DELETE", f"/v0/volumes/{UUID}")

        scene.happening = happening
        name = await scene.admit()
        assert await scene.live(name)
        assert (await scene.record(name)).status.reason == Reason.VOLUME_GONE
        scene.nothing_left()

    told(story)


# --- calls that are not answered -------------------------------------------------------------------------------------


def inject(effect: Effect, path: str = COUNT, *, method: str = "PUT", seconds: float = 0.0, times: int = 1) -> Fault:
    return Fault(effect=effect, method=method, path=path, seconds=seconds, times=times)


UNANSWERED = [Effect.TIMEOUT_BEFORE, Effect.TIMEOUT_AFTER, Effect.LOST_BEFORE, Effect.LOST_AFTER, Effect.SILENT]


@pytest.mark.parametrize("effect", UNANSWERED, ids=str)
@pytest.mark.parametrize("count", ["2", "1"], ids=["up", "down"])
def test_a_count_that_nobody_answers_is_settled_by_waiting(effect: Effect, count: str) -> None:
    def check(scene: Scene, record: VolumeMigration) -> None:
        assert scene.front.faults.pending == ()
        assert record.status.elapsed_seconds > OPERATION + CACHE, "nothing was concluded at once"

    fault = inject(effect, f"{COUNT}/{count}$")
    tell(Reason.MOVED, ["nvme-3"], prepare=lambda scene: scene.front.inject(fault), check=check)


@pytest.mark.parametrize("count", ["2", "1"], ids=["up", "down"])
def test_a_count_that_takes_effect_after_it_was_given_up_is_seen(count: str) -> None:
    fault = inject(Effect.SLOW, f"{COUNT}/{count}$", seconds=7.0)
    tell(Reason.MOVED, ["nvme-3"], prepare=lambda scene: scene.front.inject(fault))


@pytest.mark.parametrize("effect", [*UNANSWERED, Effect.DOWN], ids=str)
@pytest.mark.parametrize("method", ["PUT", "DELETE"], ids=["pulled", "let go"])
def test_a_lever_of_which_nobody_answers_is_let_go_all_the_same(effect: Effect, method: str) -> None:
    fault = inject(effect, r"nodes/node-\d/cordon", method=method)
    tell(Reason.MOVED, ["nvme-3"], prepare=lambda scene: scene.front.inject(fault))


def test_a_control_plane_that_was_busy_for_long_makes_no_later_pause_longer() -> None:
    answers = iter([Meaning.BUSY] * 12 + [Meaning.GONE])

    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, a_volume())
        tried: list[float] = []

        async def answer(what: str) -> None:
            if what.endswith("replica_count/2"):
                tried.append(loop.time())
                if (meaning := next(answers, None)) is not None:
                    raise RestError(what, Refused(meaning, 400))

        scene.writes.before_write = answer
        name = await scene.admit()
        assert await scene.live(name)
        await scene.ended(name, Reason.MOVED, pools=["nvme-3"])
        assert len(tried) == 14
        assert tried[-1] - tried[-2] < 2 * POLL

    told(story)


# --- what was relied upon does not hold ------------------------------------------------------------------------------


def as_late_2024(control: ControlSettings) -> ControlSettings:
    order = MayastorVersion.LATE_2024.traits.removal_order
    return replace(control, storage=replace(control.storage, removal_order=order))


def test_a_lever_that_does_not_work_costs_one_copy_and_is_not_relied_upon_again() -> None:
    """The nodes tell of a version whose control plane would drop from a cordoned node; this one does not."""

    def check(scene: Scene, _record: VolumeMigration) -> None:
        assert scene.off == {Ability.GO_NODE_CORDON}

    tell(
        Reason.STEERING_INEFFECTIVE,
        ["sata-1"],
        volume=a_volume(target_node="node-1"),
        prepare=lambda scene: scene.front.set_control(as_late_2024),
        check=check,
    )


def test_a_kept_replica_that_goes_instead_parks_the_volume() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, a_volume(("sata-1", "sata-2"), target_node="node-1"))
        scene.front.set_control(as_late_2024)
        name = await scene.admit(("sata-1", "nvme-3"))
        assert await scene.live(name)
        record = await scene.record(name)
        if record.status.reason == Reason.STEERING_INEFFECTIVE:  # by chance the new one went
            await scene.ended(name, Reason.STEERING_INEFFECTIVE, pools=["sata-1", "sata-2"])
        else:
            await scene.ended(name, Reason.WRONG_REPLICA_REMOVED, pools=["nvme-3", "sata-1"])
        assert scene.off == {Ability.GO_NODE_CORDON}

    told(story)


def test_a_source_that_is_lost_when_the_copy_is_complete_ends_it() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, replace(a_volume(target_node="node-3"), self_heal=False))
        lost: list[bool] = []

        async def happening(scene: Scene, record: VolumeMigration) -> None:
            if record.status.state is DOWN and not lost:
                lost.append(True)
                scene.lose_replica("sata-1")

        scene.happening = happening
        name = await scene.admit()
        assert await scene.live(name)
        record = await scene.record(name)
        assert (record.status.state, record.status.reason) == (MigrationState.FAILED, Reason.ORIGINAL_LOST)
        assert scene.pools_of() == ["nvme-3"]
        scene.nothing_left()

    told(story)


def test_nothing_is_removed_of_a_volume_that_lost_a_replica_that_was_to_stay() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, replace(a_volume(("sata-1", "sata-2"), target_node="node-3"), self_heal=False))
        lost: list[bool] = []

        async def happening(scene: Scene, record: VolumeMigration) -> None:
            if record.status.state is DOWN and not lost:
                lost.append(True)
                scene.lose_replica("sata-2")

        scene.happening = happening
        name = await scene.admit(("sata-1", "nvme-3"))
        assert await scene.live(name)
        record = await scene.record(name)
        assert (record.status.state, record.status.reason) == (MigrationState.FAILED, Reason.ORIGINAL_LOST)
        assert scene.pools_of() == ["nvme-3", "sata-1"]

    told(story)


def test_a_snapshot_made_while_levers_are_pulled_stays_with_its_replica() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)

        def made(scene: Scene) -> None:
            scene.front.describe_volume(UUID, lambda entry: replace(entry, snapshots=1))

        scene.writes.on_write = lambda what: made(scene) if "PUT nodes/node-1/cordon" in what else None
        name = await scene.admit()
        assert await scene.live(name)
        await scene.ended(name, Reason.HAS_SNAPSHOTS, pools=["sata-1"])

    told(story)


# --- found by trying to break it -------------------------------------------------------------------------------------


def test_levers_that_cannot_be_let_go_end_it_while_there_is_room_to_say_so() -> None:
    """Each try is refused by the data plane, for as long as anybody tries."""

    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)
        scene.front.inject(inject(Effect.LOST_BEFORE, r"nodes/node-\d/cordon", method="DELETE", times=10_000))
        name = await scene.admit(timeout=120.0)
        assert await scene.live(name)
        record = await scene.record(name)
        assert (record.status.state, record.status.reason) == (MigrationState.FAILED, Reason.LEVERS_LEFT)
        assert len(record.status.steps) < 60
        assert "replica added on nvme-3" in record.status.message

    told(story)


def test_a_replica_that_lands_elsewhere_costs_a_copy_and_is_not_steered_so_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A control plane that pays no heed to cordons of nodes, with the roomiest pool on one."""

    def blind(state: State, volume: SimVolume) -> tuple[SimPool, ...]:
        return candidates(replace(state, cordoned_nodes=frozenset()), volume)

    monkeypatch.setattr("sandbox.world.control.counts.candidates", blind)

    async def story(loop: VirtualLoop) -> None:
        pools = (POOLS[0], a_pool("sata-2", "node-2", "cold", gib=900), POOLS[3])
        scene = Scene(loop, pools=pools)
        name = await scene.admit()
        assert await scene.live(name)
        await scene.ended(name, Reason.STEERING_INEFFECTIVE, pools=["sata-1"])
        assert scene.off == {Ability.ADD_NODE_CORDON}

    told(story)


def test_a_replica_that_somebody_adds_at_the_same_moment_is_not_taken_for_ours() -> None:
    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop)

        async def add(what: str) -> None:
            if "replica_count/2" in what:
                await scene.front.ask("PUT", f"/v0/volumes/{UUID}/replica_count/2")

        scene.writes.before_write = add
        name = await scene.admit()
        assert await scene.live(name)
        record = await scene.record(name)
        assert record.status.reason == Reason.PLACEMENT_CHANGED
        assert scene.front.volumes[UUID].replica_count == 2
        scene.nothing_left()

    told(story)
