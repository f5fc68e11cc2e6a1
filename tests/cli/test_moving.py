"""Asking for moves, following them, watching all, cancelling one; and what happens when the migrator goes away."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from couchestor.migrator.v1 import migrator_pb2

from cli.journeys import MOST_FAILURES
from tests.cli.answers import SYNCED, a_migration, an_ended, lasting, news, removed
from tests.cli.desk import Desk

pytestmark = pytest.mark.timeout(30)
NewDesk = Callable[..., Desk]
LONGEST = (1, 2, 4, 8, 16, 30, 30, 30)
PENDING = migrator_pb2.MIGRATION_STATE_PENDING
FAILED = migrator_pb2.MIGRATION_STATE_FAILED


def started(desk: Desk, migration: migrator_pb2.Migration) -> Any:
    """Answer a StartMigration."""
    return desk.answer("migrator", "StartMigration", migrator_pb2.StartMigrationResponse(migration=migration))


def end(call: Any, code: grpc.StatusCode = grpc.StatusCode.CANCELLED, message: str = "") -> None:
    """End a stream."""
    call.terminate((), code, message)


@pytest.mark.parametrize(
    ("to", "kind", "name"),
    [
        ("hot", "tier", "hot"),
        ("cold", "tier", "cold"),
        ("warm", "tier", "warm"),
        ("pool-nvme-1", "pool", "pool-nvme-1"),
        ("pool:hot", "pool", "hot"),
        ("tier:hot", "tier", "hot"),
        ("Hot", "pool", "Hot"),
    ],
)
def test_to_names_a_tier_or_a_pool(desk: Desk, to: str, kind: str, name: str) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", to)
    request = started(desk, a_migration(state=PENDING))
    assert done.result() == 0
    assert request.WhichOneof("target") == kind
    assert getattr(request, kind) == name


@pytest.mark.parametrize("to", ["tier:fast", "tier:", "disk:a", "pool:", ":x", ""])
def test_a_target_that_names_neither_is_refused_before_anything_is_asked(
    desk: Desk, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        desk.type("migrate", "pvc-abc123", "--to", to)
    assert stopped.value.code == 2
    assert desk.connected_to == []
    assert f"argument --to: {to!r}: " in capsys.readouterr().err


def test_migrate_sends_what_was_typed_and_prints_its_request_id(desk: Desk) -> None:
    done = desk.type(
        "migrate",
        "pvc-abc123",
        "--to",
        "hot",
        "--dry-run",
        "--reason",
        "because",
        "--priority",
        "7",
        "--timeout",
        "45m",
    )
    request = started(desk, a_migration(state=PENDING))
    assert done.result() == 0
    assert (request.volume, request.dry_run, request.reason, request.priority) == ("pvc-abc123", True, "because", 7)
    assert request.timeout == lasting(timedelta(minutes=45))
    assert not request.HasField("policy")
    assert request.request_id.startswith("couchestor-")
    assert desk.screen.splitlines() == [
        f"request   {request.request_id}",
        "migration vmig-3f2a",
        "volume    pvc-abc123: pool-sata-1 → pool-nvme-1",
        "state     Pending",
    ]


def test_a_request_can_be_repeated_under_its_id(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--request-id", "mine")
    assert started(desk, a_migration(state=PENDING)).request_id == "mine"
    assert done.result() == 0


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_when_the_outcome_is_unknown_the_command_says_how_to_repeat_it_safely(
    desk: Desk, code: grpc.StatusCode
) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot")
    request = desk.refuse("migrator", "StartMigration", code, "no answer")
    assert done.result() == 1
    assert f"--request-id {request.request_id}" in desk.complaints
    assert desk.complaints.count("\n") == 1


def test_a_refused_move_does_not_suggest_to_repeat_it(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot")
    desk.refuse("migrator", "StartMigration", grpc.StatusCode.FAILED_PRECONDITION, "pvc-abc123 has 2 replicas")
    assert done.result() == 1
    assert desk.complaints == "couchestor: migrator at localhost:1: FAILED_PRECONDITION: pvc-abc123 has 2 replicas\n"


def test_following_tells_each_state_once_and_ends_with_the_migration(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow")
    started(desk, a_migration(state=PENDING))
    request, call = desk.take_stream("migrator", "WatchMigrations")
    assert request.filter == migrator_pb2.MigrationFilter(volume="pvc-abc123")
    call.send_response(news(an_ended("vmig-older")))
    call.send_response(news(a_migration(state=PENDING)))
    call.send_response(SYNCED)
    for share in (0.1, 0.6):
        call.send_response(news(a_migration(progress=share)))
    phases = [migrator_pb2.PhaseDuration(state=PENDING, duration=lasting(timedelta(seconds=4)))]
    call.send_response(news(an_ended(detail="10Gi copied", phases=phases)))
    assert done.result() == 0
    states = [line for line in desk.screen.splitlines() if line.startswith("state ")]
    assert states == ["state     Pending", "state     WaitingSync", "state     Completed, Moved"]
    assert desk.screen.endswith("detail    10Gi copied\nphases    Pending 4s\n")


@pytest.mark.parametrize("state", [FAILED, migrator_pb2.MIGRATION_STATE_ABORTED])
def test_following_a_migration_that_does_not_complete_exits_with_1(
    desk: Desk, state: migrator_pb2.MigrationState.ValueType
) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow")
    started(desk, a_migration(state=PENDING))
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(an_ended(state=state, reason="ReplicaLeft")))
    assert done.result() == 1
    assert "ReplicaLeft" in desk.screen


def test_following_one_that_had_ended_already_needs_no_watch(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--request-id", "old", "--follow")
    started(desk, an_ended())
    assert done.result() == 0


def test_following_survives_a_restart_of_the_migrator(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow")
    started(desk, a_migration(state=PENDING))
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(a_migration(state=PENDING)))
    end(call, grpc.StatusCode.UNAVAILABLE, "connection refused")
    _, again = desk.take_stream("migrator", "WatchMigrations")
    again.send_response(news(a_migration()))
    again.send_response(SYNCED)
    again.send_response(news(an_ended()))
    assert done.result() == 0
    assert "connection refused; connecting again" in desk.complaints
    assert len(desk.pauses) == 1
    assert 0 < desk.pauses[0] <= 1


def test_a_record_that_is_deleted_meanwhile_is_no_success(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow")
    started(desk, a_migration(state=PENDING))
    _, call = desk.take_stream("migrator", "WatchMigrations")
    for event in (news(a_migration()), SYNCED, removed("vmig-3f2a")):
        call.send_response(event)
    assert done.result() == 1
    assert "vmig-3f2a: its record was deleted" in desk.complaints


def test_a_record_that_is_gone_after_a_restart_is_no_success(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow")
    started(desk, a_migration(state=PENDING))
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(SYNCED)
    desk.refuse("migrator", "GetMigration", grpc.StatusCode.NOT_FOUND, "no such migration")
    assert done.result() == 1
    assert "vmig-3f2a: its record is gone" in desk.complaints


def test_a_watch_that_lags_behind_the_new_record_is_waited_for(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow")
    started(desk, a_migration(state=PENDING))
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(SYNCED)
    answer = migrator_pb2.GetMigrationResponse(migration=a_migration(state=PENDING))
    assert desk.answer("migrator", "GetMigration", answer).name == "vmig-3f2a"
    call.send_response(news(an_ended()))
    assert done.result() == 0


def test_follow_with_json_prints_one_document_the_end(desk: Desk) -> None:
    done = desk.type("migrate", "pvc-abc123", "--to", "hot", "--follow", "--json")
    started(desk, a_migration(state=PENDING))
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(a_migration()))
    call.send_response(news(an_ended()))
    assert done.result() == 0
    document = json.loads(desk.screen)
    assert document["migration"]["state"] == "MIGRATION_STATE_COMPLETED"
    assert document["migration"]["request_id"] == "couchestor-1"


def test_watching_in_a_pipe_writes_a_line_for_each_change(desk: Desk) -> None:
    done = desk.type("migrations", "--watch", "--active")
    request, call = desk.take_stream("migrator", "WatchMigrations")
    assert request.filter.active_only
    call.send_response(news(a_migration(progress=0.25)))
    call.send_response(SYNCED)
    call.send_response(news(a_migration(progress=0.25)))
    call.send_response(news(an_ended()))
    call.send_response(removed("vmig-3f2a"))
    desk.wait_for("record removed")
    end(call, grpc.StatusCode.PERMISSION_DENIED, "enough")
    assert done.result() == 1
    assert desk.screen.splitlines() == [
        "10:30:00  vmig-3f2a  pvc-abc123  WaitingSync  pool-sata-1 → pool-nvme-1  -  25%",
        "10:30:00  vmig-3f2a  pvc-abc123  Completed  pool-sata-1 → pool-nvme-1  Moved",
        "10:30:00  vmig-3f2a  record removed",
    ]


def test_watching_as_json_writes_an_event_a_line(desk: Desk) -> None:
    done = desk.type("migrations", "--watch", "--json")
    _, call = desk.take_stream("migrator", "WatchMigrations")
    for event in (news(a_migration()), SYNCED, removed("vmig-3f2a")):
        call.send_response(event)
    desk.wait_for("removed")
    end(call, grpc.StatusCode.PERMISSION_DENIED)
    assert done.result() == 1
    events = [json.loads(line) for line in desk.screen.splitlines()]
    assert [next(iter(event)) for event in events] == ["migration", "synced", "removed"]


def test_watching_on_a_terminal_keeps_the_old_picture_until_the_new_one_is_whole(new_desk: NewDesk) -> None:
    desk = new_desk(width=120, terminal=True)
    done = desk.type("migrations", "--watch")
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(a_migration("vmig-gone-meanwhile")))
    call.send_response(SYNCED)
    desk.wait_for("vmig-gone-meanwhile")
    end(call, grpc.StatusCode.UNAVAILABLE, "restarting")
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(an_ended("vmig-other")))
    call.send_response(SYNCED)
    desk.wait_for("vmig-other")
    end(call, grpc.StatusCode.PERMISSION_DENIED)
    assert done.result() == 1
    last = desk.screen.rsplit("MIGRATION", 1)[1]
    assert "vmig-other" in last
    assert "vmig-gone-meanwhile" not in last


def test_a_deadline_of_the_stream_is_no_failure(desk: Desk) -> None:
    done = desk.type("migrations", "--watch")
    for name in ("vmig-1", "vmig-2", "vmig-3"):
        _, call = desk.take_stream("migrator", "WatchMigrations")
        call.send_response(news(a_migration(name)))
        desk.wait_for(name)
        end(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    _, call = desk.take_stream("migrator", "WatchMigrations")
    end(call, grpc.StatusCode.PERMISSION_DENIED)
    assert done.result() == 1
    assert desk.pauses == []
    assert "PERMISSION_DENIED" in desk.complaints


def test_a_migrator_that_was_never_there_ends_the_watch_at_once(desk: Desk) -> None:
    done = desk.type("migrations", "--watch")
    _, call = desk.take_stream("migrator", "WatchMigrations")
    end(call, grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert done.result() == 1
    assert desk.pauses == []
    assert desk.complaints == "couchestor: migrator at localhost:1: UNAVAILABLE: connection refused\n"


def test_a_migrator_that_goes_and_stays_away_ends_the_watch(desk: Desk) -> None:
    done = desk.type("migrations", "--watch")
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(a_migration()))
    desk.wait_for("vmig-3f2a")
    for _ in range(MOST_FAILURES):
        end(call, grpc.StatusCode.UNAVAILABLE, "connection refused")
        _, call = desk.take_stream("migrator", "WatchMigrations")
    end(call, grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert done.result() == 1
    assert len(desk.pauses) == MOST_FAILURES
    assert desk.complaints.count("connecting again") == 1
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(desk.pauses, LONGEST, strict=True))


def test_interrupting_a_watch_is_how_it_ends(desk: Desk) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    desk.during_pause = interrupt
    done = desk.type("migrations", "--watch")
    _, call = desk.take_stream("migrator", "WatchMigrations")
    call.send_response(news(a_migration()))
    desk.wait_for("vmig-3f2a")
    end(call, grpc.StatusCode.UNAVAILABLE)
    assert done.result() == 0


ROLLS_BACK = migrator_pb2.CANCEL_EFFECT_ROLLS_BACK
FINISHES_FORWARD = migrator_pb2.CANCEL_EFFECT_FINISHES_FORWARD
ALREADY_ENDED = migrator_pb2.CANCEL_EFFECT_ALREADY_ENDED


@pytest.mark.parametrize("output", [(), ("--json",)])
@pytest.mark.parametrize(
    ("migration", "effect", "says", "code"),
    [
        (a_migration(), ROLLS_BACK, "vmig-3f2a (WaitingSync): everything is put back as it was", 0),
        (
            a_migration(state=migrator_pb2.MIGRATION_STATE_SCALING_DOWN, reason="WaitingForRemoval"),
            FINISHES_FORWARD,
            "vmig-3f2a (ScalingDown): too late to go back; the move is finished",
            3,
        ),
        (
            an_ended(),
            ALREADY_ENDED,
            "vmig-3f2a (Completed, Moved): it had ended already; nothing was cancelled",
            3,
        ),
        (
            an_ended(state=migrator_pb2.MIGRATION_STATE_ABORTED, reason="Cancelled"),
            ALREADY_ENDED,
            "vmig-3f2a (Aborted, Cancelled): it had ended already; nothing was cancelled",
            3,
        ),
    ],
)
def test_a_cancel_says_what_it_will_do_and_a_script_knows_whether_it_came_in_time(
    desk: Desk,
    migration: migrator_pb2.Migration,
    effect: migrator_pb2.CancelEffect.ValueType,
    says: str,
    code: int,
    output: tuple[str, ...],
) -> None:
    done = desk.type("cancel", "vmig-3f2a", *output)
    answer = migrator_pb2.CancelMigrationResponse(migration=migration, effect=effect, detail="the replica goes")
    request = desk.answer("migrator", "CancelMigration", answer)
    assert request.name == "vmig-3f2a"
    assert done.result() == code
    if not output:
        assert desk.screen == f"{says}\nthe replica goes\n"
    else:
        assert json.loads(desk.screen)["effect"] == migrator_pb2.CancelEffect.Name(effect)
