"""
The questions that Prometheus is asked, as text.

One query fetches every volume for one source and one window. The gauge's is the specification's to the letter; the
counters of Mayastor's exporter come together in one answer, each summed per volume and marked by a label that says
which it is, because `rate` takes their names away.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from scorer.core.names import spellings

GAUGE = "openebs_volume_iops"


class Counter(StrEnum):
    """The mark that each counter's sums carry in the answer (label `op`)."""

    READS = "read"
    WRITES = "write"
    READ_LATENCY = "read_us"
    WRITE_LATENCY = "write_us"


COUNTERS = {
    Counter.READS: "volume_num_read_ops",
    Counter.WRITES: "volume_num_write_ops",
    Counter.READ_LATENCY: "volume_read_latency_us",
    Counter.WRITE_LATENCY: "volume_write_latency_us",
}


def gauge_query(window: timedelta, volume: str | None = None) -> str:
    """Ask for the average of the gauge over the window: of every volume, or of one by its volume_id."""
    return f"avg_over_time({GAUGE}{_matcher('volume_id', volume)}[{range_text(window)}])"


def counters_query(window: timedelta, volume: str | None = None) -> str:
    """Ask for the rates of the four counters, summed per pv_name: of every volume, or of one."""
    selector = f"{_matcher('pv_name', volume)}[{range_text(window)}]"
    return " or ".join(
        f'label_replace(sum by (pv_name) (rate({metric}{selector})), "op", "{counter}", "", "")'
        for counter, metric in COUNTERS.items()
    )


def range_text(window: timedelta) -> str:
    """Write a window as Prometheus reads it, in seconds, or in its finest unit, milliseconds, where it must."""
    milliseconds = window // timedelta(milliseconds=1)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def quote(value: str) -> str:
    """Write a label's value as a double-quoted PromQL string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _matcher(label: str, volume: str | None) -> str:
    if volume is None:
        return ""
    names = spellings(volume)
    if len(names) == 1:
        return f"{{{label}={quote(names[0])}}}"
    # The two spellings are hexadecimal digits and dashes around "pvc-": nothing in them means more to a regex.
    return f"{{{label}=~{quote('|'.join(names))}}}"
