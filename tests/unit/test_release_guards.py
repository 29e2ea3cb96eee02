"""Guards of a release: each stops what would be silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchmar import mar
from torchmar.errors import ArchiveError, ArchiveExists, ReleaseError, ReleaseRefused, WorkersNotReady
from torchmar.measure.samples import Judgement, Outcome
from torchmar.release import (
    Host,
    Options,
    ServedVersion,
    history,
    observe,
    plan_release,
    reconcile,
    release,
    retire,
    rollback,
)
from torchmar.release._gate import CandidateRun
from torchmar.release._steps import run_step
from torchmar.release._watch import watch

from ..live.servers import make_stranger
from .servers_in_memory import (
    ARCHIVE,
    QUICK,
    Clock,
    Fake,
    FleetOf,
    as_server,
    released,
    serving,
    version,
    worker,
)


def work_of(fake: Fake, **changes: Any) -> CandidateRun:
    clock = Clock()
    host = Host("local", as_server(fake), changes.pop("store", None))
    values = {"file": "m-2.0.mar", "workers": 1, "default": "1.0", "options": QUICK, **changes}
    archive = values.pop("archive", ARCHIVE)
    return CandidateRun(host, archive, clock=clock, sleep=clock.sleep, **values)


# -- the switch ---------------------------------------------------------------------------------


def test_a_switch_that_somebody_has_overtaken_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server says is the default counts, not that it was told."""
    fake = serving("1.0", "1.0", "2.0", "3.0")
    assert run_step(work_of(fake), "default").startswith("2.0, in ")
    assert fake.default == "2.0"
    told = fake.set_default

    def overtaken(name: str, _number: str) -> None:
        told(name, "3.0")

    monkeypatch.setattr(fake, "set_default", overtaken)
    with pytest.raises(ReleaseError, match=r"the default is 3\.0 and not 2\.0: somebody else sets it"):
        run_step(work_of(fake), "default")


def watched(fake: Fake, workers: int, clock: Clock, sleep: Callable[[float], None]) -> Judgement:
    """What comes of watching m 2.0 for two seconds, without any request."""
    work = work_of(fake, workers=workers, options=replace(QUICK, watch=2.0))
    work.clock, work.sleep, work.golden = clock, sleep, ()
    with suppress(ReleaseError):
        watch(work)
    return work.judgements["watch"]


@pytest.mark.parametrize("becomes", ["2.0", "3.0"])
def test_a_watch_sees_that_somebody_has_changed_the_default(becomes: str) -> None:
    """It watches what is served, and says so where that is another version."""
    fake = serving("2.0", "2.0", "3.0")
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        fake.default = becomes

    judgement = watched(fake, 1, clock, sleep)
    assert judgement.outcome is (Outcome.PASS if becomes == "2.0" else Outcome.FAIL)
    if becomes != "2.0":
        assert judgement.findings[0].text == "the default is 3.0 now: somebody changed it"


@pytest.mark.parametrize("ready", [True, False])
def test_a_watch_sees_that_a_worker_is_gone(*, ready: bool) -> None:
    """All that the version is to have must be READY at each look."""
    fake, clock = serving("2.0", "2.0"), Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        fake.all["2.0"] = version("2.0", workers=(worker(0), worker(1, ready=ready)))

    fake.scale("m", 2, "2.0")
    judgement = watched(fake, 2, clock, sleep)
    assert judgement.outcome is (Outcome.PASS if ready else Outcome.FAIL)
    if not ready:
        assert judgement.findings[0].text.startswith("1 of 2 workers are READY")


# -- what is copied -----------------------------------------------------------------------------


def test_what_was_changed_after_it_was_verified_is_not_copied(tmp_path: Path) -> None:
    """The archive is one bit away from what was verified when it is copied: nothing is left of it."""
    source, store = make_stranger(tmp_path, "m", "# its handler", version="2.0"), tmp_path / "store"
    store.mkdir()
    archive, content = mar.verify(source), source.read_bytes()
    at = content.index(b"# its handler")
    source.write_bytes(content[:at] + b"!" + content[at + 1 :])
    work = work_of(serving("1.0", "1.0"), archive=archive, store=store)
    with pytest.raises(ArchiveError, match="was changed"):
        run_step(work, "copy")
    assert list(store.iterdir()) == []
    source.write_bytes(content)
    assert run_step(work, "copy").endswith("digested again")
    assert mar.file_sha256(store / "m-2.0.mar") == archive.sha256


def test_what_lies_in_the_store_under_its_name_is_compared_to_the_byte(tmp_path: Path) -> None:
    """A server would load it as if it were what was verified."""
    archive = mar.verify(make_stranger(tmp_path, "m", "# its handler", version="2.0"))
    store = tmp_path / "store"
    store.mkdir()
    other = make_stranger(store, "m", "! its handler", version="2.0")
    content = other.read_bytes()
    work = work_of(serving("1.0", "1.0"), archive=archive, store=store)
    with pytest.raises(ArchiveExists, match="is there with other contents"):
        run_step(work, "copy")
    assert other.read_bytes() == content
    other.write_bytes(archive.path.read_bytes())
    assert run_step(work, "copy").endswith("is there already, digested again")


# -- workers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listed", "wanted"), [(1, 3), (3, 1), (2, 2)])
def test_as_many_workers_as_are_wanted(listed: int, wanted: int) -> None:
    """An archive's minWorkers wins over what it was registered with: then it is scaled."""
    fake = serving("1.0", "1.0", "2.0")
    fake.all["2.0"] = version("2.0", workers=tuple(map(worker, range(listed))))
    assert fake.bring_up("m-2.0.mar", "m", "2.0", wanted).ready_workers == wanted
    assert fake.acts == ([] if listed == wanted else [f"scale 2.0 {wanted}"])


# -- back ---------------------------------------------------------------------------------------


def test_a_rollback_to_what_nobody_knows(fleet_of: FleetOf) -> None:
    """It says so, and begins nothing that could never end: the way back stays as it was."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    before = history(fleet.journal("m"))
    with pytest.raises(ReleaseError, match=r"--to 9.9: give a version that can be served: local does not"):
        rollback(fleet, "m", "9.9")
    assert (fake.default, fake.acts) == ("2.0", [])
    assert history(fleet.journal("m")) == before
    assert rollback(fleet, "m").default == "1.0"


def test_reconcile_leaves_no_registration_that_cannot_start(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered first it would be the default, and answer nobody; the other versions are served."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.forget()
    ready = fake.wait_until_ready

    def wait(name: str, number: str, **more: Any) -> Any:
        if number == "2.0":
            raise WorkersNotReady("m 2.0: its worker died while loading")
        return ready(name, number, **more)

    monkeypatch.setattr(fake, "wait_until_ready", wait)
    with pytest.raises(ReleaseError, match=r"m 2\.0: m 2\.0: its worker died while loading"):
        reconcile(fleet, "m")
    assert (fake.default, sorted(fake.all)) == ("1.0", ["1.0"])


def test_a_server_that_lacks_the_archive_is_told_what_to_do() -> None:
    """By an address nothing is uploaded: where it is to be copied to, or how it can be."""
    fake = serving("1.0", "1.0")
    fake.missing = ("m-2.0.mar",)
    work = work_of(fake)
    with pytest.raises(
        ReleaseError, match=r"copy m-2\.0\.mar into the model store of local .* or give --store"
    ):
        run_step(work, "register")
    with pytest.raises(ReleaseError, match=r"give --store, as when this release was begun"):
        run_step(work, "copy")


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [("tokenizer", "1.0"), ("a/b", "1.0"), ("m", "1/0"), ("m\n", "1"), ("m", "all")]
)
def test_a_name_that_cannot_be_managed_is_refused_before_a_call(
    fleet_of: FleetOf, name: str, number: str
) -> None:
    """No server is asked under it, since that alone does harm; and nothing is written."""
    fleet = fleet_of(Fake(is_down=True))
    theirs = replace(ARCHIVE, manifest={"model": {"modelName": name, "modelVersion": number}})
    for begin in (plan_release, release):
        with pytest.raises(ReleaseRefused, match=r"m-2\.0\.mar is not released: ") as refused:
            begin(fleet, theirs, Options())
        assert str(refused.value).isprintable()
    assert not fleet.folder.exists()


def test_what_somebody_has_registered_beside_spoils_nothing(fleet_of: FleetOf) -> None:
    """Versions that no URL, or no line, can say: they stop nobody's way back, nor the end of another one."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    for number in ("a/b", "x\ny", "\x1b[2J", "", "..", "all"):
        fake.all[number] = version(number)
    assert [one.version for one in observe(as_server(fake), "m").versions] == ["1.0", "2.0"]
    assert rollback(fleet, "m").default == "1.0"
    [done] = retire(fleet, "m", "2.0", Options(longest=0.0))
    assert done.version == "2.0"
    [found] = reconcile(fleet, "m")
    assert (found.default, found.acts, found.others) == ("1.0", (), ())
    assert history(fleet.journal("m")).served["local"].versions == (
        ServedVersion("1.0", "m-1.0.mar", 1, 1, batch_size=8, response_timeout=10),
    )
    fake.default = "x\ny"
    with pytest.raises(ReleaseError) as refused:
        rollback(fleet, "m", None)
    assert "x\ny" not in str(refused.value)
