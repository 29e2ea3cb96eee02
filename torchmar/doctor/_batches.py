"""Find a model's settings that let requests go unanswered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Milliseconds. A worker that dies while it fills a batch loses the requests it has: 12 of 136 at 150 ms, none
# of 1,066 at 1 ms.
_LONGEST_DELAY = 50
_TORCHSERVES_DELAY = 100


def slow_batches(config: Mapping[str, object]) -> Iterator[str]:
    """Warn if a worker waits too long for a batch to fill, by model-config.yaml or `models`."""
    size, delay = config.get("batchSize", 1), config.get("maxBatchDelay", _TORCHSERVES_DELAY)
    if not isinstance(size, int) or not isinstance(delay, int | float) or size < 2 or delay <= _LONGEST_DELAY:
        return
    yield (
        f"a worker waits for a batch of {size} for up to {delay:g} ms (maxBatchDelay): if it dies meanwhile, "
        "the requests that it has taken are never answered"
    )


def client_timeouts(config: Mapping[str, object]) -> Iterator[str]:
    """Warn about requests that expire in TorchServe's queue."""
    limit = config.get("clientTimeoutInMills")
    if isinstance(limit, int | float) and limit > 0:
        yield (
            f"clientTimeoutInMills is {limit:g}: a request that waited longer is dropped without an answer, "
            "and its caller hangs until its own timeout"
        )
