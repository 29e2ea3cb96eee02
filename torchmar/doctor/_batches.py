"""Settings of a model that let requests go unanswered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Milliseconds. A worker that dies while it fills a batch never answers what it had taken: of 136 requests 12
# at 150 ms, of 1,066 none at 1 ms.
_LONGEST_DELAY = 50
_TORCHSERVES_DELAY = 100


def slow_batches(config: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with how long a worker waits for a batch to fill, of a model-config.yaml or `models`."""
    size, delay = config.get("batchSize", 1), config.get("maxBatchDelay", _TORCHSERVES_DELAY)
    if not isinstance(size, int) or not isinstance(delay, int | float) or size < 2 or delay <= _LONGEST_DELAY:
        return
    yield (
        f"a batch of {size} is waited for up to {delay:g} ms (maxBatchDelay): the requests that a worker has "
        "taken by then are never answered where it dies"
    )


def client_timeouts(config: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with requests that expire in TorchServe's queue."""
    limit = config.get("clientTimeoutInMills")
    if isinstance(limit, int | float) and limit > 0:
        yield (
            f"clientTimeoutInMills is {limit:g}: a request that waited longer is dropped without an answer, "
            "and its caller hangs until its own timeout"
        )
