"""What a person sees: a picture on a terminal, plain lines in a pipe."""

import io

import pytest
from couchestor.migrator.v1 import migrator_pb2 as migrator
from couchestor.planner.v1 import planner_pb2 as planner
from couchestor.scorer.v1 import scorer_pb2 as scorer
from rich.console import Console

from sandbox.demo.board import STATES, Board
from sandbox.demo.scenario import DEMO
from sandbox.demo.view import View, picture

MOVE = migrator.ReplicaMove(source_pool="pool-sata-3", target_pool="pool-nvme-2")


def a_migration(
    state: "migrator.MigrationState.ValueType", reason: str = "", progress: float = 0.0
) -> migrator.Migration:
    return migrator.Migration(
        name="m", volume="pvc-orders", state=state, reason=reason, moves=[MOVE], progress=progress
    )


def a_board() -> Board:
    board = Board()
    for pool in DEMO.pools:
        board.pools[pool.name] = migrator.Pool(
            name=pool.name, node=pool.node, labels=dict(pool.labels), online=True, capacity_bytes=pool.capacity_bytes
        )
    for volume in DEMO.volumes:
        replicas = [migrator.Replica(pool=pool) for pool in volume.pools]
        board.placements[volume.name] = migrator.VolumePlacement(volume=volume.name, replicas=replicas)
    return board


def shown(board: Board, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(picture(DEMO, board, 3.0, width))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_picture_has_every_pool_and_every_volume() -> None:
    text = shown(a_board())
    assert [name for name in (pool.name for pool in DEMO.pools) if name not in text] == []
    assert [v.name for v in DEMO.volumes if v.name.removeprefix("pvc-") not in text] == []


def test_heat_is_shown_as_a_number_or_as_what_is_wrong_with_it() -> None:
    board = a_board()
    known = scorer.HeatScore(score=9188.4, quality=scorer.HEAT_QUALITY_OK)
    board.decide(planner.Decision(volume="pvc-orders", heat=known))
    board.decide(planner.Decision(volume="pvc-audit", heat=scorer.HeatScore(quality=scorer.HEAT_QUALITY_NO_DATA)))
    text = shown(board)
    assert "orders\N{NO-BREAK SPACE}9,188" in text
    assert "audit\N{NO-BREAK SPACE}no data" in text


def test_a_move_is_shown_with_its_state() -> None:
    board = a_board()
    board.put(a_migration(migrator.MIGRATION_STATE_WAITING_SYNC, progress=0.5))
    text = shown(board)
    assert "orders⇄" in text
    assert "pool-sata-3 → pool-nvme-2" in text
    assert "WaitingSync" in text
    assert "0 of 8 done" in text


def test_in_a_pipe_each_state_is_one_plain_line() -> None:
    console = Console(file=io.StringIO(), width=120)
    board = Board()
    with View(console, DEMO, board, lambda: 1.5) as view:
        view.begin()
        board.put(a_migration(migrator.MIGRATION_STATE_WAITING_SYNC, progress=0.1))
        board.put(a_migration(migrator.MIGRATION_STATE_WAITING_SYNC, progress=0.2))
        board.put(a_migration(migrator.MIGRATION_STATE_COMPLETED, "Moved"))
    file = console.file
    assert isinstance(file, io.StringIO)
    lines = file.getvalue().splitlines()
    assert [line.split()[-1] for line in lines] == ["WaitingSync", "Moved"]
    assert "\x1b[" not in file.getvalue()


def test_every_state_on_the_wire_is_known() -> None:
    assert set(STATES) == set(migrator.MigrationState.values()) - {migrator.MIGRATION_STATE_UNSPECIFIED}


@pytest.mark.parametrize("state", list(STATES))
def test_every_state_can_be_shown(state: "migrator.MigrationState.ValueType") -> None:
    board = a_board()
    board.put(a_migration(state))
    assert str(STATES[state]) in shown(board)
