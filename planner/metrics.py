"""
What the planner counts.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from planner.core.plan import Plan

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class PlannerMetrics:
    """The planner's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Name and text are the specification's.
        self.reconciles = Counter("storage_operator_reconcile", "Total number of reconciliations", registry=registry)
        self.errors = Counter(
            "couchestor_planner_reconcile_errors", "Reconciliations that went wrong in some part", registry=registry
        )
        self.seconds = Histogram(
            "couchestor_planner_reconcile_seconds", "Seconds a reconciliation took", buckets=_SECONDS, registry=registry
        )
        self.plan_seconds = Histogram(
            "couchestor_planner_plan_seconds",
            "Seconds the plan of a reconciliation took",
            buckets=_SECONDS,
            registry=registry,
        )
        self.started = Counter(
            "couchestor_planner_moves_started", "Moves the migrator was asked for and took", registry=registry
        )
        self.refused = Counter(
            "couchestor_planner_moves_refused",
            "Moves the migrator was asked for and refused",
            ("reason",),
            registry=registry,
        )
        self.decisions = Gauge(
            "couchestor_planner_decisions",
            "Volumes by the decision of the last reconciliation",
            ("policy", "outcome", "reason"),
            registry=registry,
        )
        self._placements = Gauge(
            "couchestor_planner_placements_broken_seconds",
            "Seconds for which placements have not been kept current; 0 while they are",
            registry=registry,
        )
        self._leading = Gauge("couchestor_planner_leading", "1 while this replica holds the lease", registry=registry)
        self._shown: dict[str, set[tuple[str, str]]] = {}

    def watch(self, *, leading: Callable[[], bool], broken_seconds: Callable[[], float]) -> None:
        """Read these when they are scraped."""
        self._leading.set_function(lambda: float(leading()))
        self._placements.set_function(broken_seconds)

    def show(self, plan: Plan) -> None:
        """Show the decisions of a plan in the place of the policy's last."""
        tally = Tally((decision.outcome.value, decision.reason.value) for decision in plan.decisions)
        for gone in self._shown.get(plan.policy, set()) - tally.keys():
            self.decisions.remove(plan.policy, *gone)
        for (outcome, reason), count in tally.items():
            self.decisions.labels(plan.policy, outcome, reason).set(count)
        self._shown[plan.policy] = set(tally)

    def forget(self, policy: str) -> None:
        """Show nothing of a policy that is gone."""
        for gone in self._shown.pop(policy, set()):
            self.decisions.remove(policy, *gone)
