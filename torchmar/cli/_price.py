"""Say what compressing a model costs and gains, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..files import size

if TYPE_CHECKING:
    from ..measure.price import Speed

_NAMED = 5  # layers


def price_lines(price: Mapping[str, Any], speed: Speed | None = None) -> list[str]:
    """Return lines on a price.json, a stranger's too, and on what was measured just now."""
    try:
        return list(_lines(price, speed))
    except (KeyError, TypeError, ValueError, AttributeError):
        return [f"price    {price}"]


def _lines(price: Mapping[str, Any], speed: Speed | None) -> Iterator[str]:
    from ..measure.price import metric_in_words

    before, after = (price["bytes"][name] for name in ("float", "compressed"))
    pruned = price.get("multiply_adds")
    gone = f"{1 - pruned[1] / pruned[0]:.0%} of the multiply-adds pruned" if pruned else ""
    what = ", ".join(filter(None, (gone, price["quantize"])))
    yield f"price    {what}: {size(before)} → {size(after)}{_gained(speed)}"
    of = f"{price['examples']} examples"
    if price["calibrated_on"]:
        of += ", none" if price["apart"] else ", all"
        of += f" of them among the {price['calibrated_on']} that gave the ranges"
    cost = "not measurable" if price["cost"] is None else _mean(price["cost"])
    labels = price["cost_by_labels"]
    by_labels = (
        "" if labels is None else f"; by labels {_mean(labels['float'])} → {_mean(labels['compressed'])}"
    )
    yield f"cost     {cost} on {of}{by_labels}"
    if metric := metric_in_words(price):
        yield f"metric   {metric}"
    wrong = price["golden_differing"]
    golden = f", golden {price['golden'] - len(wrong)} of {price['golden']}" if price["golden"] else ""
    yield (
        f"answers  agreement {price['agreement']:g}{golden}; "
        f"max_abs_error {price['max_abs_error']:g}, mean {price['mean_abs_error']:g}"
    )
    left = price["layers_in_float"]
    if left:
        named = ", ".join(left[:_NAMED]) + (f" and {len(left) - _NAMED} more" if len(left) > _NAMED else "")
        yield f"in float {len(left)} of {price['layers']} layers: {named}"


def _mean(mean: Mapping[str, float]) -> str:
    return f"{mean['value']:g} [{mean['low']:g}, {mean['high']:g}]"


def _gained(speed: Speed | None) -> str:
    if speed is None:
        return ""
    before, after = speed.latency["float"], speed.latency["compressed"]
    times = [f"{before[n].p50_ms:g} → {after[n].p50_ms:g} ms for a batch of {n}" for n in before]
    peaks = speed.peak_rss_mb["float"], speed.peak_rss_mb["compressed"]
    if None not in peaks:
        times.append(f"{peaks[0]:.0f} → {peaks[1]:.0f} MB of memory")
    return ", " + ", ".join(times)
