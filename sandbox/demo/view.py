"""
What a person sees while the demo runs: a live picture on a terminal, a line an event anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from couchestor.migrator.v1 import migrator_pb2 as migrator
from couchestor.scorer.v1 import scorer_pb2 as scorer
from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.placement import Tier
from common.quantities import format_bytes
from common.resources.migration import MigrationState
from sandbox.demo.board import Board, state_of
from sandbox.demo.invariants import Violation
from sandbox.demo.scenario import HIGH, LOW, Scenario

WIDTH_IN_A_PIPE: Final = 150
TITLES: Final = {Tier.HOT: "hot tier: NVMe", Tier.COLD: "cold tier: SATA"}
BAR: Final = 24


class View:
    """Shows a demo. `with` it around the story."""

    def __init__(self, console: Console, scenario: Scenario, board: Board, elapsed: Callable[[], float]) -> None:
        self.console = console
        self._scenario = scenario
        self._board = board
        self._elapsed = elapsed
        self._live = Live(self, console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        board.on_migration = self.migration
        board.on_trouble = self.trouble

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Show the picture from now on, where there is a terminal."""
        if self._live is not None:
            self._live.start(refresh=True)

    def end(self) -> None:
        """Take the picture away; what was said stays."""
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Say one line."""
        stamp = Text(f"{self._elapsed():6.1f}s  ", style="dim")
        self.console.print(stamp + Text(text), soft_wrap=True)

    def migration(self, old: migrator.Migration | None, new: migrator.Migration) -> None:
        """Tell of a migration that entered a state."""
        if old is not None and old.state == new.state:
            return
        state = state_of(new)
        because = f"  {new.reason}" if new.reason and state.terminal else ""
        self.say(f"{new.volume:<15} {way(new):<28} {state}{because}")

    def violation(self, violation: Violation) -> None:
        self.say(f"UNSAFE {violation}")

    def trouble(self, text: str) -> None:
        self.say(f"a service does not answer: {text}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield picture(self._scenario, self._board, self._elapsed(), options.max_width)


def way(migration: migrator.Migration) -> str:
    return ", ".join(f"{move.source_pool} → {move.target_pool}" for move in migration.moves)


def picture(scenario: Scenario, board: Board, seconds: float, width: int) -> RenderableType:
    """Both tiers side by side, and below them the moves."""
    half = max(40, width // 2 - 1)
    tiers = [Panel(Group(*tier_lines(board, tier)), title=TITLES[tier], width=half, box=box.ROUNDED) for tier in TITLES]
    done = sum(state_of(m) is MigrationState.COMPLETED for m in board.migrations.values())
    title = f"moves: {done} of {len(scenario.expected_moves)} done, {seconds:.0f} s"
    return Group(Columns(tiers, padding=0), Panel(moves_table(board), title=title, box=box.ROUNDED, width=2 * half))


def tier_lines(board: Board, tier: Tier) -> Iterator[RenderableType]:
    """Each pool with how full it is, and the volumes that are on it."""
    heat = {volume: decision.heat for volume, decision in board.decisions.items() if decision.HasField("heat")}
    moving = {migration.volume for migration in board.under_way()}
    for pool in sorted(board.pools.values(), key=lambda pool: pool.name):
        if pool.labels.get("tier") != tier:
            continue
        grid = Table.grid(padding=(0, 1))
        state = "" if pool.online else "  not online"
        used = f"{format_bytes(pool.used_bytes)} of {format_bytes(pool.capacity_bytes)}{state}"
        bar = ProgressBar(total=max(1, pool.capacity_bytes), completed=pool.used_bytes, width=BAR // 2)
        grid.add_row(Text(f"{pool.name} on {pool.node}", style="bold"), bar, Text(used, style="dim"))
        yield grid
        here = (p for p in board.placements.values() if any(replica.pool == pool.name for replica in p.replicas))
        names = sorted(placement.volume for placement in here)
        yield Text("  ") + Text("  ").join(volume_text(name, heat, moving) for name in names)


def volume_text(name: str, heat: Mapping[str, scorer.HeatScore], moving: set[str]) -> Text:
    """A volume's name and heat, in the colour of what its heat asks for."""
    score = heat.get(name)
    mark = "⇄" if name in moving else ""
    text = f"{name.removeprefix('pvc-')}{mark}\N{NO-BREAK SPACE}{heat_text(score)}"
    if score is None or score.quality != scorer.HEAT_QUALITY_OK:
        return Text(text, style="dim")
    return Text(text, style="red" if score.score > HIGH else "blue" if score.score < LOW else "yellow")


def heat_text(score: scorer.HeatScore | None) -> str:
    """A score for a person; the quality where there is none to show."""
    if score is None:
        return "–"
    if score.quality == scorer.HEAT_QUALITY_OK:
        return f"{score.score:,.0f}"
    return scorer.HeatQuality.Name(score.quality).removeprefix("HEAT_QUALITY_").lower().replace("_", " ")


def moves_table(board: Board) -> Table:
    """Every migration with its progress."""
    table = Table.grid(padding=(0, 2))
    rebuilt = {
        (placement.volume, replica.pool): replica.rebuild_progress
        for placement in board.placements.values()
        for replica in placement.replicas
        if replica.HasField("rebuild_progress")
    }
    for migration in sorted(board.migrations.values(), key=lambda m: (m.created_at.ToNanoseconds(), m.name)):
        state = state_of(migration)
        progress = _progress(migration, state, rebuilt)
        eta = f"{migration.eta.ToTimedelta().total_seconds():.0f} s left" if migration.HasField("eta") else ""
        style = "green" if state is MigrationState.COMPLETED else "red" if state.terminal else "cyan"
        bar = ProgressBar(total=1.0, completed=progress, width=BAR)
        label = f"{state} {migration.reason}" if state.terminal else str(state)
        table.add_row(migration.volume, way(migration), bar, Text(label, style=style), Text(eta, style="dim"))
    return table


def _progress(migration: migrator.Migration, state: MigrationState, rebuilt: Mapping[tuple[str, str], float]) -> float:
    if state in {MigrationState.COMPLETED, MigrationState.SCALING_DOWN}:
        return 1.0
    if state is not MigrationState.WAITING_SYNC:
        return 0.0
    told = migration.progress if migration.HasField("progress") else 0.0
    return max(told, *(rebuilt.get((migration.volume, move.target_pool), 0.0) for move in migration.moves), 0.0)
