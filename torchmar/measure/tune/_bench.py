"""Run a real server in a temporary folder, and measure candidates on it."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import server
from ...answers import parsed
from ...client import KeyFile, Server, Timeouts, connect
from ...errors import ClientError, TorchmarError, TuneError
from ...files import remove_tree
from ...mar import Archive
from ._served import folder_of, requests_of
from ._values import Candidate, Limits, Trial

_PREFIX = "torchmar-tune-"
_MUCH_SLOWER = 0.7  # fraction of the best rate: a slower probe ends the trial
_FAR_ABOVE = 1.5  # times the p99 target: a probe with a higher p50 ends the trial
_ANSWERS = 100  # the fewest responses for a p99
_LONGER = 4  # times the requested seconds, at most, to get that many
_ASK_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """How to measure a candidate: `clients` in a closed loop, for `seconds` after the warm-up."""

    clients: int = 8
    seconds: float = 3.0


@dataclass(frozen=True)
class Figures:
    """The load generator's figures. Latencies are in ms, None without a response."""

    rps: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int
    kinds: Mapping[str, int]
    answers: Sequence[str]


class _Rejected(Exception):
    """Why a candidate is unusable."""


@contextmanager
def opened(
    archive: Archive,
    bodies: tuple[Path, ...],
    limits: Limits,
    settings: Settings,
    environment: Mapping[str, str],
) -> Iterator[Bench]:
    """Yield a server that measures variants of a verified archive; removes everything afterwards.

    Raises TuneError, ArchiveError, ServerError.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    bench = None
    try:
        (folder / "model_store").mkdir()
        base = folder_of(archive, folder / "base", archive.version, None)
        bench = Bench(folder, base, requests_of(base, bodies), limits, settings, environment)
        bench.start()
        yield bench
    finally:
        if bench is not None:
            bench.stop()
        with contextlib.suppress(OSError):
            remove_tree(folder)


class Bench:
    """Runs one server with one candidate at a time."""

    def __init__(
        self,
        folder: Path,
        base: Archive,
        requests: tuple[Path, ...],
        limits: Limits,
        settings: Settings,
        environment: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._base = base
        self._requests = requests
        self._limits = limits
        self._settings = settings
        self._environment = environment
        self._running: server.RunningServer | None = None
        self._clients: Server | None = None
        self._expected: list[bytes | None] | None = None
        self._cold = True
        self._count = 0
        self._folders: dict[Candidate | None, Archive] = {}

    def start(self) -> None:
        """Start the server. Raises ServerError."""
        where = self._folder / "server"
        where.mkdir(exist_ok=True)
        # The load generator cannot renew a token, so none may expire meanwhile.
        config = server.hardened_config().with_settings({"token_expiration_min": str(60 * 24 * 7)})
        self._running = server.start(
            where, self._folder / "model_store", server.free_ports(config), environment=self._environment
        )
        assert self._running.key_file is not None
        self._clients = connect(
            inference=self._running.config.inference,
            management=self._running.config.management,
            tokens=KeyFile(self._running.key_file),
            timeouts=Timeouts(read=_ASK_SECONDS),
            reason=server.WorkerLog(self._running.logs).why_died,
        )
        self._cold = True

    def stop(self) -> None:
        """Stop the server if it runs."""
        if self._clients is not None:
            self._clients.close()
        running, self._running, self._clients = self._running, None, None
        if running is not None:
            server.stop(running)

    def measure(
        self, candidate: Candidate, *, default: bool = False, best_rps: float = 0.0, full: bool = False
    ) -> Trial:
        """Measure a candidate. `default` means the archive as it is, which `candidate` describes.

        Unless `full`, a short probe decides whether to measure on. A failing candidate is a Trial too; only
        problems of the machine raise: ServerError, ArchiveError.
        """
        if self._running is None or not self._running.is_alive():
            self.stop()
            self.start()
        archive = self._folder_of(None if default else candidate)
        empty = Trial(candidate, "failed", default=default)
        try:
            self._serve(archive)
            self._check(archive)
            trial = self._trial(archive, empty, best_rps, full=full or default)
        except (_Rejected, ClientError) as error:
            trial = replace(empty, reason=str(error).splitlines()[0])
        self._remove(archive)
        return trial

    # -- one candidate --------------------------------------------------------------------------

    def _folder_of(self, candidate: Candidate | None) -> Archive:
        """Return its variant in the model store; all variants share one file of weights."""
        if candidate not in self._folders:
            version = f"tune{len(self._folders)}"
            target = self._folder / "model_store" / f"{self._base.name}-{version}"
            self._folders[candidate] = folder_of(self._base, target, version, candidate, link=True)
        return self._folders[candidate]

    def _same(self, one: bytes, other: bytes) -> bool:
        return one == other or self._base.comparator.same(parsed(one), parsed(other))

    def _serve(self, archive: Archive) -> None:
        assert self._clients is not None
        self._clients.management.register(archive.path.name)
        self._clients.management.wait_until_ready(archive.name, archive.version)

    def _check(self, archive: Archive) -> None:
        """Check that each request gets the same answer as from the first configuration."""
        answers = [self._ask(archive, file) for file in self._requests]
        if self._expected is None:
            again = [self._ask(archive, file) for file in self._requests]
            # A model with varying answers has nothing to compare with.
            pairs = zip(answers, again, strict=True)
            self._expected = [one if self._same(one, other) else None for one, other in pairs]
        for file, expected, found in zip(self._requests, self._expected, answers, strict=True):
            if expected is not None and not self._same(expected, found):
                raise _Rejected(f"answers {file.name} unlike the first configuration: {_short(found)}")

    def _ask(self, archive: Archive, file: Path) -> bytes:
        assert self._clients is not None
        prediction = self._clients.inference.predict(archive.name, file, version=archive.version)
        if prediction.status != 200:
            raise _Rejected(f"answers {file.name} with status {prediction.status}")
        return prediction.content

    def _trial(self, archive: Archive, empty: Trial, best_rps: float, *, full: bool) -> Trial:
        seconds = self._settings.seconds
        longest = seconds * (4 if self._cold else 1)  # Java first compiles what it runs often
        probe = self._load(archive, min(1.0, seconds), warmup=min(0.5, seconds / 2), warmup_max=longest)
        self._cold = False
        if not full:
            hopeless = self._hopeless(probe, best_rps)
            if hopeless:
                return self._filled(empty, "given up", probe, hopeless)
        for_a_p99 = _ANSWERS / probe.rps if probe.rps > 0 else math.inf
        seconds = max(seconds, min(_LONGER * seconds, for_a_p99))
        figures = self._load(archive, seconds, warmup=min(0.2, seconds / 4), warmup_max=0.0)
        return self._judged(empty, figures)

    def _hopeless(self, probe: Figures, best_rps: float) -> str:
        """Explain why a candidate cannot win; '' if it might."""
        target = self._limits.p99_ms
        if probe.p50_ms is not None and probe.p50_ms > _FAR_ABOVE * target:
            return f"after a probe: half of the answers take more than {probe.p50_ms:.0f} ms"
        if probe.rps < _MUCH_SLOWER * best_rps:
            return f"after a probe: {probe.rps / best_rps:.0%} of the best rate"
        return ""

    def _judged(self, empty: Trial, figures: Figures) -> Trial:
        trial = self._filled(empty, "ok", figures, "")
        limit = self._limits.memory
        if figures.errors:
            kinds = ", ".join(f"{count} {kind}" for kind, count in figures.kinds.items())
            return replace(trial, verdict="failed", reason=f"requests failed: {kinds}")
        if figures.p99_ms is None:
            return replace(trial, verdict="failed", reason="nothing was answered within the time")
        if self._strangers(figures):
            return replace(trial, verdict="failed", reason="answers differently under load")
        if limit is not None and (trial.memory or 0) > limit:
            return replace(trial, verdict="memory", reason="takes more memory than allowed")
        if figures.p99_ms > self._limits.p99_ms:
            return replace(trial, verdict="slow", reason="p99 is above the target")
        return trial

    def _strangers(self, figures: Figures) -> bool:
        """Return whether an answer differs from all expected ones. Ignores long answers, which are cut."""
        if self._expected is None or None in self._expected:
            return False
        whole = [text.encode() for text in figures.answers if len(text) < 4000 and text != "(others)"]
        return any(not any(self._same(known or b"", found) for known in self._expected) for found in whole)

    def _filled(self, empty: Trial, verdict: Any, figures: Figures, reason: str) -> Trial:
        return replace(
            empty,
            verdict=verdict,
            rps=figures.rps,
            p50_ms=figures.p50_ms,
            p99_ms=figures.p99_ms,
            memory=self._memory(),
            reason=reason,
        )

    def _memory(self) -> int | None:
        """Return the PSS of the frontend and its workers, in bytes; None if the system does not report it."""
        from ..memory import tree_mb

        assert self._running is not None
        return round(tree_mb([self._running.pid]) * 1e6) or None

    def _remove(self, archive: Archive) -> None:
        """Drain, unregister, wait until it is gone; restart a server that fails to do it."""
        assert self._clients is not None
        try:
            with contextlib.suppress(ClientError):
                self._drain(archive)
            self._clients.management.take_away(archive.name, archive.version)
        except TorchmarError:
            self.stop()
            self.start()

    def _drain(self, archive: Archive) -> None:
        assert self._clients is not None
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            model = self._clients.management.describe(archive.name, archive.version)
            if model.queue.pending_requests == 0:
                return
            time.sleep(0.05)

    # -- the load -------------------------------------------------------------------------------

    def _load(self, archive: Archive, seconds: float, *, warmup: float, warmup_max: float) -> Figures:
        """Run the load generator in its own process."""
        assert self._running is not None
        assert self._running.key_file is not None
        url = f"{self._running.config.inference}/predictions/{archive.name}/{archive.version}"
        token = KeyFile(self._running.key_file).token("inference")
        options = {
            "--url": url,
            "--header": f"Authorization: Bearer {token}",
            "--clients": self._settings.clients,
            "--seconds": seconds,
            "--warmup": warmup,
            "--warmup-max": warmup_max,
        }
        arguments = [f"{name}={value}" for name, value in options.items()]
        arguments += [f"--body={file}" for file in self._requests]
        # In a file of a private folder: `ps` shows arguments to everyone, and one of them is a token.
        file = self._folder / "load-arguments"
        file.write_text("\n".join(arguments), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "torchmar.measure.load", f"@{file}"],
                capture_output=True,
                text=True,
                timeout=seconds + warmup_max + _ASK_SECONDS,
                start_new_session=True,  # Ctrl-C reaches this process, which then ends that one
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _Rejected("the load generator did not end") from None
        if done.returncode:
            raise TuneError(f"the load generator failed: {done.stderr.strip()[-1000:]}")
        content = json.loads(done.stdout)
        answers = [str(answer["text"]) for answer in content["answers"]]
        names = ("rps", "p50_ms", "p99_ms", "errors", "kinds")
        return Figures(**{name: content[name] for name in names}, answers=answers)


def _short(content: bytes) -> str:
    text = content.decode("utf-8", "replace")
    return text if len(text) <= 100 else text[:99] + "…"
