"""
Objects as clusters really have them: other fields, missing fields, other shapes, and nonsense not to be believed.
"""

from __future__ import annotations

import msgspec
import pytest

from common.placement import Pool, Replica, ReplicaHealth, VolumePlacement
from common.resources.meta import LAST_MIGRATION, ObjectMeta
from common.resources.migration import MigrationState, Step, VolumeMigration
from common.resources.pool import DiskPool
from common.resources.volume import MayastorVolume, PersistentVolume, VolumeAttachment


def test_the_specifications_pv_is_understood() -> None:
    pv = msgspec.json.decode(
        b"""{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pvc-abc123","managedFields":[{"x":1}],
        "annotations":{"storage.billyronks.io/last-migration":"2026-02-01T10:00:00Z"}},
        "spec":{"storageClassName":"mayastor","capacity":{"storage":"10Gi"},"csi":{"volumeHandle":"pvc-abc123-uuid"}}}""",
        type=PersistentVolume,
    )
    assert pv.volume_handle == "pvc-abc123-uuid"
    assert pv.metadata.annotation(LAST_MIGRATION) == "2026-02-01T10:00:00Z"
    assert pv.metadata.annotation("other") is None
    assert pv.spec.storage_class_name == "mayastor"


def test_a_pv_without_csi_goes_by_its_name() -> None:
    assert msgspec.json.decode(b'{"metadata":{"name":"pv-1"}}', type=PersistentVolume).volume_handle == "pv-1"


def test_an_attachment_may_be_of_an_inline_volume() -> None:
    body = b'{"metadata":{"name":"a"},"spec":{"attacher":"x","nodeName":"n","source":{"inlineVolumeSpec":{}}}}'
    assert msgspec.json.decode(body, type=VolumeAttachment).spec.source.persistent_volume_name is None


def test_times_are_in_utc_and_null_maps_are_empty() -> None:
    meta = msgspec.json.decode(
        b'{"name":"x","creationTimestamp":"2026-02-01T11:00:00+01:00","labels":null,"annotations":null}',
        type=ObjectMeta,
    )
    assert meta.creation_timestamp is not None
    assert meta.creation_timestamp.isoformat() == "2026-02-01T11:00:00+01:00"
    assert meta.annotation("a") is None
    with pytest.raises(msgspec.ValidationError, match="timezone"):
        msgspec.json.decode(b'{"name":"x","creationTimestamp":"2026-02-01T11:00:00"}', type=ObjectMeta)


def test_the_specifications_pool_is_online_with_300_gibibytes_free() -> None:
    pool = msgspec.json.decode(
        b"""{"metadata":{"name":"pool-nvme-1","labels":{"tier":"hot"}},
        "status":{"state":"Online","capacity":"500Gi","used":"200Gi"}}""",
        type=DiskPool,
    ).pool()
    assert pool == Pool("pool-nvme-1", None, {"tier": "hot"}, True, False, 500 * 2**30, 200 * 2**30)
    assert pool.free_bytes == 300 * 2**30


def test_a_newer_pool_says_its_health_in_pool_status_and_its_labels_in_topology() -> None:
    pool = msgspec.json.decode(
        b"""{"metadata":{"name":"p"},"spec":{"node":"node-1","topology":{"labelled":{"tier":"cold"}}},
        "status":{"state":"Created","pool_status":"Online","capacity":1000,"used":"400"}}""",
        type=DiskPool,
    ).pool()
    assert (pool.node, pool.labels, pool.online, pool.free_bytes) == ("node-1", {"tier": "cold"}, True, 600)


def test_a_created_pool_of_unknown_health_is_not_online() -> None:
    body = b'{"metadata":{"name":"p"},"status":{"state":"Online","pool_status":"Unknown","capacity":1000}}'
    assert not msgspec.json.decode(body, type=DiskPool).pool().online


def test_a_pool_without_a_status_has_no_space_and_is_not_online() -> None:
    pool = msgspec.json.decode(b'{"metadata":{"name":"p"}}', type=DiskPool).pool()
    assert (pool.online, pool.free_bytes) == (False, 0)


def test_a_pool_fuller_than_it_is_large_has_no_space() -> None:
    assert Pool("p", "n", capacity_bytes=10, used_bytes=20).free_bytes == 0


def test_a_pool_of_impossible_size_is_refused() -> None:
    body = b'{"metadata":{"name":"p"},"status":{"state":"Online","capacity":"-5Gi"}}'
    with pytest.raises(ValueError, match="is not a size"):
        msgspec.json.decode(body, type=DiskPool).pool()


def test_only_a_synced_replica_can_be_relied_upon() -> None:
    synced = [health for health in ReplicaHealth if Replica("p", health).synced]
    assert synced == [ReplicaHealth.SYNCED]


def test_a_replica_is_known_by_its_uuid_else_by_its_pool() -> None:
    known, unknown = Replica("p", ReplicaHealth.SYNCED, uuid="u"), Replica("p", ReplicaHealth.SYNCED)
    assert (known.identity, unknown.identity) == ("u", "p")
    assert VolumePlacement("v", "v", 2, (known, unknown)).pools == frozenset({"p"})


def test_states_of_replicas_that_nobody_knew_survive() -> None:
    body = b"""{"metadata":{"name":"v"},
    "spec":{"numReplicas":1,"topology":{"pool":{"labelled":{"inclusion":{"a":"b"}}}}},
    "status":{"state":"Odd","replicas":[{"pool":"p","state":"Melting","syncState":"Perhaps"}]}}"""
    volume = msgspec.json.decode(body, type=MayastorVolume)
    assert volume.status is not None
    assert volume.status.replicas[0].sync_state == "Perhaps"
    assert volume.spec.topology == {"pool": {"labelled": {"inclusion": {"a": "b"}}}}


@pytest.mark.parametrize("spec", [b"{}", b'{"numReplicas":"1"}', b'{"numReplicas":1.5}', b'{"numReplicas":null}'])
def test_a_volume_without_a_whole_replica_count_is_not_believed(spec: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"metadata":{"name":"v"},"spec":' + spec + b"}", type=MayastorVolume)


def test_a_migration_keeps_the_original_topology_byte_for_byte() -> None:
    topology = '{"pool" : {"labelled":{"inclusion":{ "b":"1", "a":"2"}}}, "node":null}'
    body = {
        "metadata": {"name": "m"},
        "spec": {"requestId": "r", "pvName": "v", "volumeHandle": "h", "moves": []},
        "status": {"state": "ScalingUp", "originalTopology": topology},
    }
    migration = msgspec.json.decode(msgspec.json.encode(body), type=VolumeMigration)
    again = msgspec.json.decode(msgspec.json.encode(migration), type=VolumeMigration)
    assert again.status.original_topology == topology
    assert again == migration


def test_three_states_of_a_migration_are_its_end() -> None:
    assert [state for state in MigrationState if state.terminal] == [
        MigrationState.COMPLETED,
        MigrationState.ABORTED,
        MigrationState.FAILED,
    ]


def test_a_journal_entry_needs_a_time_with_a_zone() -> None:
    with pytest.raises(msgspec.ValidationError, match="timezone"):
        msgspec.json.decode(b'{"time":"2026-02-02T10:30:00","kind":"Note","state":"Pending"}', type=Step)
