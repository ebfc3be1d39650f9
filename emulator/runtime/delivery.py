"""The metric of delivery time."""

from __future__ import annotations

from prometheus_client import Histogram

PREFIX = "sophos_utmstack_"
DELIVERY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


def delivery_histogram() -> Histogram:
    """A new histogram, for one platform."""
    return Histogram(
        f"{PREFIX}delivery_seconds",
        "Seconds from a stream's first waiting batch being stored to all that waited being acknowledged.",
        buckets=DELIVERY_BUCKETS,
        registry=None,
    )
