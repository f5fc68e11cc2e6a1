"""
The answers of PlannerService, as plain asynchronous methods over its messages.

A preview and an explanation look at the world afresh and run the very function that a reconcile acts on. Any replica
gives them; to act is the leader's, and another replica leaves it word on the policy itself.
"""

from __future__ import annotations

import base64
import binascii
import random
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, timedelta
from itertools import islice
from typing import Final

from couchestor.planner.v1 import planner_pb2 as pb

from common.clock import Clock
from common.kube.api import STORAGE_POLICIES, KubeApi, KubeError, NotFoundError
from common.reasons import Reason
from common.resources.meta import RECONCILE_AT
from common.resources.policy import Policy
from common.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from planner.core.plan import Decision, Plan, explain, plan, plan_for
from planner.core.world import World
from planner.messages import OUTCOMES, decision_to, explanation_to, policy_of, summary_to, timestamp
from planner.previews import Previews, listed, page_size
from planner.reconciler import NotLeadingError, Reconciler
from planner.survey import Survey, think

MAX_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100


class PlannerService:
    """
    The logic of each call. All raise Unavailable while the cluster has not been seen once.

    A caller's patience in seconds, where it is given, bounds the wait for heat, which is then unavailable.
    """

    def __init__(
        self,
        api: KubeApi,
        survey: Survey,
        reconciler: Reconciler,
        *,
        clock: Clock,
        rng: random.Random,
        min_window: timedelta,
    ) -> None:
        self._api = api
        self._survey = survey
        self._cluster = survey.cluster
        self._reconciler = reconciler
        self._clock = clock
        self._min_window = min_window
        self._previews = Previews(clock=clock, rng=rng)

    async def preview_plan(
        self, request: pb.PreviewPlanRequest, patience_seconds: float | None = None
    ) -> pb.PreviewPlanResponse:
        """Plan, and start nothing. Raises InvalidArgument, NotFound and FailedPrecondition."""
        self._check_synced()
        if request.page_token:
            return self._previews.next(request)
        page_size(request)  # a bad one is not worth a plan
        if request.WhichOneof("policy") == "spec":
            inline = policy_of(request.spec, min_window=self._min_window)
            world = await self._world([inline], patience_seconds)
            now = self._clock.now()
            return self._previews.first(request, await think(world, lambda: plan_for(world, inline, now)))
        name = request.policy_name
        if not name:
            raise InvalidArgument("policy", "neither policy_name nor spec is given: name a StoragePolicy or bring one")
        self._check_policy(name)
        planned = await self.preview(name, patience_seconds)
        if planned.held is not None and planned.held.reason is Reason.POLICY_INVALID:
            raise InvalidArgument("policy_name", planned.held.detail)
        return self._previews.first(request, planned)

    async def preview(self, policy: str, patience_seconds: float | None = None) -> Plan:
        """Plan for a policy that there is."""
        known = self._cluster.policies.get(policy)
        world = await self._world([known] if isinstance(known, Policy) else [], patience_seconds)
        now = self._clock.now()
        try:
            return await think(world, lambda: plan(world, policy, now))
        except KeyError as error:
            raise NotFound(f"StoragePolicy {policy} was deleted meanwhile") from error

    async def explain_volume(
        self, request: pb.ExplainVolumeRequest, patience_seconds: float | None = None
    ) -> pb.ExplainVolumeResponse:
        """Run every check of every policy for one volume. Raises InvalidArgument and NotFound."""
        if not request.volume:
            raise InvalidArgument("volume", "a volume's name is missing: give its PV name or volumeHandle")
        self._check_synced()
        policies = [item for item in self._cluster.policies.values() if isinstance(item, Policy)]
        world = await self._world(policies, patience_seconds)
        volume = world.volume(request.volume)
        if volume is None:
            raise NotFound(f"no PersistentVolume has the name or the volumeHandle {request.volume[:253]}")
        now = self._clock.now()
        explanations = await think(world, lambda: explain(world, volume, now))
        return pb.ExplainVolumeResponse(
            volume=volume.name,
            volume_handle=volume.handle,
            policies=[explanation_to(explanation) for explanation in explanations],
        )

    async def list_decisions(self, request: pb.ListDecisionsRequest) -> pb.ListDecisionsResponse:
        """Read a page of the last plan that was acted upon. Raises InvalidArgument, NotFound, FailedPrecondition."""
        self._check_synced()
        self._check_policy(request.policy_name)
        size = _page_size(request.page_size)
        after = _page_start(request.page_token)
        last = self._reconciler.last.get(request.policy_name)
        if last is None:
            who = "here" if self._reconciler.leading else "by this replica, which does not hold the lease"
            detail = f"policy {request.policy_name} has not been reconciled {who} yet; PreviewPlan plans it afresh"
            raise FailedPrecondition(Reason.NOT_SYNCED, detail)
        begin = bisect_right(last.decisions, after, key=lambda decision: decision.volume)
        rest = (decision for decision in islice(last.decisions, begin, None) if _admits(request, decision))
        found = list(islice(rest, size + 1))  # one more tells whether there is another page
        page = found[:size]
        return pb.ListDecisionsResponse(
            decisions=[decision_to(decision) for decision in page],
            next_page_token=_page_token(page) if len(found) > size else "",
            decided_at=timestamp(last.decided_at),
        )

    async def reconcile_now(self, request: pb.ReconcileNowRequest) -> pb.ReconcileNowResponse:
        """Reconcile, or leave the leader word to. Raises InvalidArgument, NotFound and Unavailable."""
        name = request.policy_name
        self._check_synced()
        self._check_policy(name)
        try:
            acted = await self._reconciler.reconcile_now(name)
        except NotLeadingError:
            await self._leave_word(name)
            return pb.ReconcileNowResponse()
        except KeyError as error:
            raise NotFound(f"StoragePolicy {name} was deleted meanwhile") from error
        except KubeError as error:
            raise Unavailable(f"reconcile of {name}: {error}") from error
        summary = summary_to(acted)
        summary.decisions.extend(decision_to(decision) for decision in listed(acted, moves_only=True))
        return pb.ReconcileNowResponse(plan=summary)

    async def _leave_word(self, name: str) -> None:
        """Set the annotation that makes a policy due for whoever leads."""
        moment = self._clock.now().astimezone(UTC).isoformat().replace("+00:00", "Z")
        try:
            await self._api.patch(STORAGE_POLICIES, name, {"metadata": {"annotations": {RECONCILE_AT: moment}}})
        except NotFoundError as error:
            raise NotFound(f"no StoragePolicy is called {name}") from error
        except KubeError as error:
            raise Unavailable(f"cannot hand the reconcile of {name} to the leader: {error}") from error

    async def _world(self, policies: Sequence[Policy], patience_seconds: float | None) -> World:
        windows = (policy.window for policy in policies if policy.enabled)
        return await self._survey.world(windows, patience_seconds=patience_seconds)

    def _check_synced(self) -> None:
        if (missing := self._cluster.not_synced()) is not None:
            raise Unavailable(f"the planner has not seen the cluster: {missing}")

    def _check_policy(self, name: str) -> None:
        if not name:
            raise InvalidArgument("policy_name", "policy_name is empty: name a StoragePolicy")
        if name not in self._cluster.policies:
            raise NotFound(f"no StoragePolicy is called {name[:253]}")


def _admits(request: pb.ListDecisionsRequest, decision: Decision) -> bool:
    outcome_fits = request.outcome in {pb.OUTCOME_UNSPECIFIED, OUTCOMES[decision.outcome]}
    return outcome_fits and request.reason in {"", decision.reason.value}


def _page_size(given: int) -> int:
    if not 0 <= given <= MAX_PAGE:
        raise InvalidArgument("page_size", f"{given} is not between 0 and {MAX_PAGE}")
    return given or DEFAULT_PAGE


def _page_token(page: Sequence[Decision]) -> str:
    return base64.urlsafe_b64encode(page[-1].volume.encode()).decode()


def _page_start(token: str) -> str:
    """Read the PV name that a page goes on after."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidArgument("page_token", "it is not one that an answer gave") from error
