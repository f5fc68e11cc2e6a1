"""
From samples to volumes.

A volume may have several series, in several sources, under two spellings of its name. The sources are asked for the
score in their configured order and the first that has a usable sample of the volume gives it. Reads, writes and latency
are measured wherever the counters exist, also when the gauge gives the score: then they need not add up to it, since
two exporters measured them. With the gauge alone, reads and writes are half the score each, and `source_metric`, which
then names the gauge and nothing else, says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from scorer.core.heat import Heat, halves, usable
from scorer.core.names import canonical
from scorer.core.promql import COUNTERS, GAUGE, Counter

_MEASURED = f"{COUNTERS[Counter.READS]}+{COUNTERS[Counter.WRITES]}"
_GAUGE_AND_MEASURED = f"{GAUGE}+{_MEASURED}"


class Source(StrEnum):
    """Where heat is read from."""

    GAUGE = "gauge"
    COUNTERS = "counters"


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One element of an answer, as far as it is used here; a label that is missing is empty."""

    value: float
    volume_id: str = ""
    pv_name: str = ""
    op: str = ""  # which counter it sums, see promql.Counter


class Heats:
    """Every volume's heat in one answer, found in constant time by any of its names."""

    __slots__ = ("_by_alias", "_by_name", "_ranked")

    def __init__(self, by_name: dict[str, Heat], by_alias: dict[str, str]) -> None:
        self._by_name = by_name
        self._by_alias = by_alias
        self._ranked: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[tuple[str, Heat]]:
        """Yield each volume's name and heat, in no order that means anything."""
        return iter(self._by_name.items())

    def get(self, volume: str) -> Heat | None:
        """Look a volume up by PV name, bare uuid or volume_id; None if it has no usable sample."""
        name = canonical(volume)
        heat = self._by_name.get(name)
        if heat is None and (known := self._by_alias.get(name)) is not None:
            return self._by_name.get(known)
        return heat

    def hottest(self, limit: int) -> list[tuple[str, Heat]]:
        """Return the first volumes by score, equal scores by name."""
        if self._ranked is None:
            ranked = sorted(self._by_name, key=lambda name: (-self._by_name[name].score, name))
            self._ranked = tuple(ranked)
        return [(name, self._by_name[name]) for name in self._ranked[:limit]]


class UnnamedSamplesError(ValueError):
    """No sample of an answer says which volume it is of: the metric is labelled in a way that is not known here."""


def merge(answers: Sequence[tuple[Source, Iterable[Sample]]]) -> Heats:
    """
    Merge the answers of all sources, given in their configured order.

    Raises UnnamedSamplesError if a source answered with samples and not one names a volume.
    """
    aliases: set[tuple[str, str]] = set()
    heats = {source: _MEASURE[source](_named(source, samples, aliases)) for source, samples in answers}
    by_name: dict[str, Heat] = {}
    for of_source in heats.values():
        for name, heat in of_source.items():
            by_name.setdefault(name, heat)
    counters = heats.get(Source.COUNTERS, {})
    for name in heats.get(Source.GAUGE, {}).keys() & counters.keys():
        by_name[name] = _with_measured_rates(by_name[name], counters[name])
    return Heats(by_name, _hottest_by_alias(aliases, by_name))


def _named(source: Source, samples: Iterable[Sample], aliases: set[tuple[str, str]]) -> Iterator[tuple[str, Sample]]:
    """Yield the usable samples with their volume's name, noting other names of it."""
    seen = named = False
    for sample in samples:
        seen = True
        label = sample.pv_name or sample.volume_id
        if not label:
            continue
        named = True
        if not usable(sample.value):
            continue
        name = canonical(label)
        if sample.volume_id and sample.volume_id != label and (alias := canonical(sample.volume_id)) != name:
            aliases.add((alias, name))
        yield name, sample
    if seen and not named:
        raise UnnamedSamplesError(f"source {source}: not one sample has a label volume_id or pv_name")


def _from_gauge(samples: Iterable[tuple[str, Sample]]) -> dict[str, Heat]:
    """Take the maximum of a volume's series: after a move between pools the old one lingers in the window, falling."""
    totals: dict[str, tuple[float, int]] = {}
    for name, sample in samples:
        total, count = totals.get(name, (0.0, 0))
        totals[name] = (max(total, sample.value), count + 1)
    return {name: Heat(total, *halves(total), None, count, GAUGE) for name, (total, count) in totals.items()}


def _from_counters(samples: Iterable[tuple[str, Sample]]) -> dict[str, Heat]:
    """Add reads and writes up. A volume of which one of the two is unknown has no score: half of it would look cold."""
    sums: dict[str, dict[str, float]] = {counter: {} for counter in Counter}
    counts: dict[str, int] = {}
    for name, sample in samples:
        of_counter = sums.get(sample.op)
        if of_counter is None:
            continue
        of_counter[name] = of_counter.get(name, 0.0) + sample.value
        if sample.op in _OPERATIONS:
            counts[name] = counts.get(name, 0) + 1
    writes_of, reading, writing = sums[Counter.WRITES], sums[Counter.READ_LATENCY], sums[Counter.WRITE_LATENCY]
    heats = {}
    for name, reads in sums[Counter.READS].items():
        writes = writes_of.get(name)
        if writes is None or not math.isfinite(reads + writes):
            continue
        latency = _latency(reading.get(name), writing.get(name), reads + writes)
        heats[name] = Heat(reads + writes, reads, writes, latency, counts[name], _MEASURED)
    return heats


def _latency(reading: float | None, writing: float | None, operations: float) -> float | None:
    """Divide microseconds spent a second by operations a second; None without both counters or without operations."""
    if reading is None or writing is None or operations == 0:
        return None
    latency = (reading + writing) / operations
    return latency if math.isfinite(latency) else None


def _with_measured_rates(heat: Heat, counters: Heat) -> Heat:
    """Give a score of the gauge the counters' reads, writes and latency; a score of the counters is what it is."""
    if heat.source_metric != GAUGE:
        return heat
    return Heat(
        heat.score, counters.read_iops, counters.write_iops, counters.latency_us, heat.sample_count, _GAUGE_AND_MEASURED
    )


def _hottest_by_alias(aliases: Iterable[tuple[str, str]], by_name: Mapping[str, Heat]) -> dict[str, str]:
    """Where one volume_id stands beside several PV names, let it mean the hottest, as for several series of one."""
    found: dict[str, str] = {}
    for alias, name in sorted(aliases):
        if name in by_name and (alias not in found or by_name[name].score > by_name[found[alias]].score):
            found[alias] = name
    return found


_OPERATIONS = frozenset({Counter.READS, Counter.WRITES})
_MEASURE = {Source.GAUGE: _from_gauge, Source.COUNTERS: _from_counters}
