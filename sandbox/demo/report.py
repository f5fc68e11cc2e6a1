"""
What the demo says at its end: a table of every volume, what to try next, what differed, and one line that sums it up.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from couchestor.migrator.v1 import migrator_pb2 as migrator
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.durations import parse_duration
from sandbox.demo.board import Board, state_of
from sandbox.demo.environment import Environment
from sandbox.demo.scenario import DemoVolume, Moves, RollsBack, Stays
from sandbox.demo.services import FULL_NAMES, Name
from sandbox.demo.story import Outcome
from sandbox.demo.verdict import tier_word
from sandbox.demo.view import heat_text
from sandbox.real.tools import find_tool

PHASES: Final = (
    migrator.MIGRATION_STATE_ANALYZING,
    migrator.MIGRATION_STATE_SCALING_UP,
    migrator.MIGRATION_STATE_WAITING_SYNC,
    migrator.MIGRATION_STATE_SCALING_DOWN,
)
PHASES_TITLE: Final = "analyze up sync down (s)"


def volumes_table(environment: Environment, board: Board, outcome: Outcome) -> Table:
    """Every volume: its heat, where it was and is, what was decided and why, and how long each phase took."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="every volume", title_justify="left")
    for column in ("volume", "heat (IOPS)", "before", "after", "decision", PHASES_TITLE):
        table.add_column(column, justify="right" if column == "heat (IOPS)" else "left", overflow="fold")
    by_volume = {migration.volume: migration for migration in outcome.migrations}
    for volume in environment.scenario.volumes:
        migration = by_volume.get(volume.name)
        held = environment.storage.state.volumes.get(volume.name)
        after = sorted(replica.pool for replica in held.replicas) if held else []
        table.add_row(
            volume.name,
            heat_text(outcome.heat.get(volume.name)),
            _place(environment, list(volume.pools)),
            _place(environment, after) if migration else Text("same", style="dim"),
            _decision(board, outcome, volume, migration),
            phases(migration) if migration else "",
        )
    return table


def _place(environment: Environment, pools: list[str]) -> str:
    return f"{tier_word(pools, environment.scenario)}: {', '.join(pools)}"


def _decision(board: Board, outcome: Outcome, volume: DemoVolume, migration: migrator.Migration | None) -> Text:
    told = outcome.decisions.get(volume.name)
    if migration is not None:
        wish = board.wishes.get(volume.name)
        good = isinstance(volume.expected, Moves | RollsBack)
        ended = f"{state_of(migration)} ({migration.reason})" if migration.reason else str(state_of(migration))
        text = Text.assemble((ended, "green" if good else "red"), f": {wish.detail if wish else volume.expected.why}")
        if isinstance(volume.expected, RollsBack) and told is not None:
            text.append(f"; then {told.reason}: {told.detail}")
        return text
    if told is None:
        return Text("nothing was said", style="red")
    good = isinstance(volume.expected, Stays) and told.reason == volume.expected.reason
    return Text.assemble((told.reason, "yellow" if good else "red"), f": {told.detail}")


def phases(migration: migrator.Migration) -> str:
    """Seconds in each state that every move goes through."""
    spent = {phase.state: phase.duration.ToTimedelta().total_seconds() for phase in migration.phases}
    return " ".join(f"{spent[state]:.1f}" if state in spent else "–" for state in PHASES)


def commands(environment: Environment) -> Iterator[str]:
    """Calls to try while everything is up: by reflection alone, on volumes that are there."""
    yield from _of_services(environment)
    if environment.storage.url:
        yield from _of_rest(environment)


def _of_rest(environment: Environment) -> Iterator[str]:
    """Mayastor's own answers: where a volume's replicas are, which nodes are closed, what the pools are labelled."""
    moving = next(volume for volume in environment.scenario.volumes if isinstance(volume.expected, Moves))
    for path in (f"volumes/{moving.handle}", "nodes", "pools", "volumes?max_entries=0"):
        yield f"curl -s {shlex.quote(f'{environment.storage.url}/v0/{path}')}"


def _of_services(environment: Environment) -> Iterator[str]:
    grpcurl = str(find_tool("grpcurl") or "grpcurl")
    couchestor = str(_beside_python("couchestor"))
    hottest = max(environment.scenario.volumes, key=lambda volume: volume.iops).name
    policy, spec = next(iter(environment.scenario.policies.items()))
    window = f"{parse_duration(spec['samplingWindow']).total_seconds():g}s"
    at = {name: ports.address for name, ports in environment.ports.items()}

    def call(name: Name, method: str, body: str) -> str:
        return f"{grpcurl} -plaintext -d {shlex.quote(body)} {at[name]} {FULL_NAMES[name]}/{method}"

    for name in Name:
        yield f"{grpcurl} -plaintext {at[name]} list"
    yield call(Name.SCORER, "GetHeatScore", f'{{"volume_id": "{hottest}", "window": "{window}"}}')
    yield call(Name.PLANNER, "PreviewPlan", f'{{"policy_name": "{policy}"}}')
    yield call(Name.MIGRATOR, "StartMigration", '{"request_id": "by-hand-1", "volume": "pvc-mail", "tier": "hot"}')
    yield call(Name.MIGRATOR, "WatchMigrations", "{}")
    yield f"{couchestor} top --scorer {at[Name.SCORER]} --window {window}"
    yield f"{couchestor} explain pvc-datalake --planner {at[Name.PLANNER]}"
    yield f"{couchestor} migrations --migrator {at[Name.MIGRATOR]}"


def _beside_python(command: str) -> Path:
    return Path(sys.executable).with_name(command)


def addresses(environment: Environment) -> Iterator[str]:
    """Where everything listens."""
    for name, ports in environment.ports.items():
        yield (
            f"{name}: pid {environment.services[name].pid}, gRPC {ports.address}, metrics "
            f"http://127.0.0.1:{ports.metrics}/metrics, health http://127.0.0.1:{ports.health}/readyz"
        )
    yield f"Kubernetes API ({environment.kubernetes.description}): {environment.kubernetes.url}"
    yield f"kubeconfig: {environment.kubernetes.kubeconfig}"
    if environment.storage.url:
        yield f"Mayastor's REST API, simulated: {environment.storage.url}/v0"
    yield f"metrics ({environment.metrics.description}): {environment.metrics.url}"
    yield f"logs: {environment.directory}"
    for process in environment.metrics.processes:
        yield f"an outage of {process.program.name}: kill -STOP {process.pid}, and its end: kill -CONT {process.pid}"


def tell(console: Console, environment: Environment, board: Board, outcome: Outcome, *, keep: bool) -> None:
    """Say everything but the last line."""
    console.print(volumes_table(environment, board, outcome))
    _section(
        console, "to try" if keep else "to try, after `make demo KEEP=1` (with other ports)", commands(environment)
    )
    if keep:
        _section(console, "where things are", addresses(environment))
    elif not outcome.good:
        _section(console, "logs", [str(environment.directory)])
    if outcome.verdict.differences:
        _section(console, "not as expected", outcome.verdict.differences)
    if outcome.violations:
        _section(console, "unsafe", map(str, outcome.violations))
    if outcome.blind:
        _section(console, "the observer cannot be relied on", [outcome.blind])


def _section(console: Console, title: str, lines: Iterable[str]) -> None:
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()


def summary(outcome: Outcome, seconds: float) -> str:
    """The last line; `seconds` is how long all of it took."""
    verdict = outcome.verdict
    return (
        f"demo: expected={verdict.expected} completed={verdict.completed} unsafe={len(outcome.violations)} "
        f"elapsed={seconds:.1f}s"
    )
