"""What a release would do, as a pure function of the archive, what is served, and the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.errors import ReleaseError
from torchmar.lineage import Lineage, Parent
from torchmar.mar import GOLDEN, Accepted, Archive, FileEntry
from torchmar.release import Host, Options, Plan, ServedState, ServedVersion
from torchmar.release._facts import Facts, gather_facts
from torchmar.release._plan import plan, plan_all, why_not
from torchmar.server import RunningServer

from .servers_in_memory import as_server, serving

MB = 1_000_000
STEPS = ["copy", "register", "ready", "warm", "gate", "default", "watch"]


WITH_GOLDEN = tuple(FileEntry(f"{GOLDEN}/{name}", 1, "") for name in ("a.jpg", "answers.json"))


def archive(version: str = "2.0", **changes: object) -> Archive:
    manifest = {"model": {"modelName": "mine", "modelVersion": version}}
    known = Archive(
        path=Path(f"/built/mine-{version}.mar"),
        sha256="ab" * 32,
        size=18 * MB,
        manifest=manifest,
        config={"minWorkers": 2},
        files=WITH_GOLDEN,
        digests=None,
        build=None,
        parity=None,
    )
    told = replace(known, **changes)  # type: ignore[arg-type]
    return told if "digests" in changes else replace(told, digests=listed(told.files))


def listed(files: tuple[FileEntry, ...]) -> dict[str, Any]:
    """The digests of an archive that is what was built."""
    return {
        "algorithm": "sha256",
        "files": {file.name: {"sha256": file.sha256, "size": file.size} for file in files},
    }


def served(
    version: str = "1.0", *, ready: int = 2, workers: int = 2, file: str | None = None
) -> ServedVersion:
    return ServedVersion(version, file or f"mine-{version}.mar", ready, workers, memory=100 * MB)


FACTS = Facts("local", ServedState("mine", "1.0", (served(),)), free_disk=10**12, free_memory=10**12)


def names(found: Plan) -> list[str]:
    return [step.name for step in found.steps]


def test_a_new_version() -> None:
    """All steps, as many workers as the default version has, and the way back is one call."""
    found = plan(archive(config={"minWorkers": 9}), FACTS, Options())
    assert names(found) == STEPS
    assert (found.workers, found.default, found.file) == (2, "1.0", "mine-2.0.mar")
    assert found.way_back == "one call: set-default mine 1.0"
    assert not found.refusals


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("../../etc/x", "1"),
        ("/srv/x", "1"),
        ("x", "1/../../y"),
        ("tokenizer", "1"),
        ("x", "all"),
        ("x\n", "1"),
        ("x", "\x1b[2J"),
        ("x" * 5_000, "1"),
        ("x" * 110, "1" * 110),
        ("", ""),
    ],
)
def test_a_name_that_cannot_be(name: str, number: str) -> None:
    """The archive may be anyone's; it would be written there, and nobody could manage what is served."""
    theirs = archive(manifest={"model": {"modelName": name, "modelVersion": number}})
    [why] = plan(theirs, replace(FACTS, served=ServedState(name)), Options()).refusals
    assert why.startswith("names: ")
    assert why.isprintable()
    assert len(why) < 300


def test_a_default_that_cannot_be_said_is_no_way_back() -> None:
    """Registered by somebody's curl, and made the default: nobody could set it again."""
    [why] = plan(archive(), replace(FACTS, served=ServedState("mine", "a/b", ())), Options()).refusals
    assert "'a/b' has a name that cannot be said to TorchServe, so there would be no way back" in why


def test_the_first_version_has_the_workers_of_its_archive() -> None:
    found = plan(archive(), replace(FACTS, served=ServedState("mine")), Options())
    assert (found.workers, found.default) == (2, None)
    assert names(found) == STEPS


def test_what_is_done_already_is_left_out() -> None:
    """A version that is registered is not registered again, a file that is there is not copied."""
    both = ServedState("mine", "1.0", (served(), served("2.0")))
    again = plan(archive(), replace(FACTS, served=both, in_store="same"), Options())
    assert names(again) == ["ready", "warm", "gate", "default", "watch"]
    done = replace(both, default="2.0")
    assert plan(archive(), replace(FACTS, served=done, in_store="same"), Options()).steps == ()


PRICE = {
    "agreement": 0.95,
    "golden": 0,
    "golden_differing": [],
    "max_abs_error": 0.1,
    "cost": {"value": 0.1},
}
ACCEPTS = Accepted(max_abs_error=0.1, agreement=0.9, cost=0.1)


@pytest.mark.parametrize(
    ("name", "version", "default", "outcome", "text"),
    [
        ("mine", "1.0", "1.0", "ok", "it was built from mine 1.0"),
        ("mine", "0.9", None, "ok", "it was built from mine 0.9"),
        ("mine", "0.9", "2.0", "ok", "it was built from mine 0.9"),
        ("other", "0.9", "1.0", "ok", "it was built from other 0.9"),
        (
            "mine",
            "0.9",
            "1.0",
            "warning",
            "it was built from mine 0.9, and 1.0 is served, which it may know nothing of",
        ),
    ],
)
def test_the_parent_is_told(name: str, version: str, default: str | None, outcome: str, text: str) -> None:
    """And that another version is served than the one that it follows: a warning, which refuses nothing."""
    facts = replace(FACTS, served=ServedState("mine", default, tuple(map(served, filter(None, [default])))))
    told = archive(lineage=Lineage(Parent(name, version, "ab" * 32)))
    found = plan(told, facts, Options())
    assert [(one.outcome, one.text) for one in found.checks if one.name == "parent"] == [(outcome, text)]
    assert not found.refusals
    silent = plan(archive(lineage=Lineage(seed=1)), facts, Options())
    assert not [one for one in silent.checks if one.name == "parent"]


def test_a_price_that_is_accepted_is_told() -> None:
    """An archive without one has no such line."""
    found = plan(archive(price=PRICE, accepts=ACCEPTS), FACTS, Options())
    assert [check.outcome for check in found.checks if check.name == "price"] == ["ok"]
    assert names(found) == STEPS
    assert not [check for check in plan(archive(), FACTS, Options()).checks if check.name == "price"]


REFUSED: dict[str, tuple[Archive, Facts, Options, str]] = {
    "another archive than the one meant": (archive(), FACTS, Options(sha256="cd" * 32), "another archive"),
    "changed after the build": (
        archive(digests={"algorithm": "sha256", "files": {"model.onnx": {"sha256": "0", "size": 1}}}),
        FACTS,
        Options(),
        "model.onnx: missing",
    ),
    "a compressed model that costs more than is accepted": (
        archive(price={**PRICE, "cost": {"value": 0.2}}, accepts=ACCEPTS),
        FACTS,
        Options(),
        "price: build it again, with another `accept` or `compress`: its compressed model costs more than "
        "its model.yaml accepts: cost 0.2 exceeds 0.1",
    ),
    "a compressed model that loses more of its metric than is accepted": (
        archive(
            price={**PRICE, "metric": {"drop": {"value": 0.02}}}, accepts=replace(ACCEPTS, metric_drop=0.01)
        ),
        FACTS,
        Options(),
        "its model.yaml accepts: metric_drop 0.02 exceeds 0.01",
    ),
    "a price that does not tell what was measured": (
        archive(price={}, accepts=ACCEPTS),
        FACTS,
        Options(),
        "agreement of golden requests unknown is below 0.9",
    ),
    "no right to register": (
        archive(),
        replace(FACTS, no_rights="enable_model_api=true is missing"),
        Options(),
        "enable_model_api",
    ),
    "no predictions may be asked": (
        archive(),
        replace(FACTS, no_predictions="the token was refused"),
        Options(),
        "inference: the token was refused",
    ),
    "the store takes nothing": (
        archive(),
        replace(FACTS, no_store="/srv/model_store: not writable for this user"),
        Options(),
        "store: mine-2.0.mar cannot be put there: /srv/model_store: not writable",
    ),
    "nginx's folder takes nothing": (
        archive(),
        replace(FACTS, no_canary="/etc/nginx/m.conf cannot be written: /etc/nginx: not writable"),
        Options(canary=(5,), nginx="/etc/nginx/m.conf", access_log="/log"),
        "canary: /etc/nginx/m.conf cannot be written: /etc/nginx: not writable",
    ),
    "a signature of bytes that nobody compared": (
        archive(),
        replace(FACTS, in_store="unknown", signature=""),
        Options(public_key="public.pem"),
        "store: give --store (`store:` in a file of hosts), or release on the server itself",
    ),
    "a digest of bytes that nobody compared": (
        archive(),
        replace(FACTS, in_store="unknown"),
        Options(sha256="ab" * 32),
        "so --sha256 would say nothing of what is served",
    ),
    "a signature of what is registered from a file that is gone": (
        archive(),
        replace(FACTS, served=ServedState("mine", "1.0", (served(), served("2.0"))), signature=""),
        Options(public_key="public.pem"),
        "`torchmar unregister mine 2.0` first",
    ),
    "the name is taken": (archive(), replace(FACTS, in_store="other"), Options(), "other contents"),
    "served from another file": (
        archive(),
        replace(FACTS, served=ServedState("mine", "1.0", (served(), served("2.0", file="mine.mar")))),
        Options(),
        "'mine.mar'",
    ),
    "two versions in one file": (
        archive(),
        replace(
            FACTS, served=ServedState("mine", "1.0", (served(file="m.mar"), served("1.1", file="m.mar")))
        ),
        Options(),
        "1.0 and 1.1 are both served from the file 'm.mar'",
    ),
    "the file of the candidate belongs to another version": (
        archive(),
        replace(FACTS, served=ServedState("mine", "1.0", (served(file="mine-2.0.mar"),))),
        Options(),
        "1.0 and 2.0 are both served",
    ),
    "a default without workers": (
        archive(),
        replace(FACTS, served=ServedState("mine", "1.0", (served(ready=0),))),
        Options(),
        "no READY worker",
    ),
    "a full disk": (archive(), replace(FACTS, free_disk=17 * MB), Options(), "18 MB are needed in the store"),
    "no room to unpack": (
        archive(),
        replace(FACTS, temporary="/tmp/x", free_temporary=17 * MB, temporary_file_system=2),
        Options(),
        "18 MB are needed in /tmp/x, where the server unpacks archives; 17 MB are free",
    ),
    "no room to unpack what is deflated": (
        archive(files=(*WITH_GOLDEN, FileEntry("w", 50 * MB, ""))),
        replace(FACTS, temporary="/tmp/x", free_temporary=40 * MB, temporary_file_system=2),
        Options(),
        "50 MB are needed in /tmp/x",
    ),
    "no room for both on one disk": (
        archive(),
        replace(
            FACTS,
            file_system=1,
            free_disk=30 * MB,
            temporary="/tmp/x",
            free_temporary=30 * MB,
            temporary_file_system=1,
        ),
        Options(),
        "36 MB are needed in /tmp/x, where the server unpacks archives, and in the store, which is on the",
    ),
    "no memory for both": (archive(), replace(FACTS, free_memory=150 * MB), Options(), "both versions"),
    "a restart": (
        archive(),
        replace(FACTS, served=ServedState("mine"), desired="1.0"),
        Options(),
        "reconcile mine",
    ),
    "the name of a standby": (archive("2.0-standby"), FACTS, Options(), "choose another `version`"),
    "a scaling that was interrupted": (
        archive(),
        replace(FACTS, served=ServedState("mine", "1.0-standby", (served(), served("1.0-standby")))),
        Options(),
        "torchmar scale mine 2",
    ),
    "more workers than are wanted": (
        archive(),
        replace(FACTS, served=ServedState("mine", "1.0", (served(), served("2.0", ready=3, workers=3)))),
        Options(),
        "torchmar scale mine 2 --version 2.0",
    ),
    "fewer workers of the default version": (archive("1.0"), FACTS, Options(workers=1), "--workers 2"),
    "a canary without nginx": (archive(), FACTS, Options(canary=(5.0, 100.0)), "--nginx"),
    "a canary without a default to compare with": (
        archive(),
        FACTS,
        Options(canary=(100.0,), nginx="n", access_log="l"),
        "begin with less, as 5,100",
    ),
    "a canary that shrinks": (
        archive(),
        FACTS,
        Options(canary=(50.0, 5.0), nginx="n", access_log="l"),
        "that grow",
    ),
}


def test_as_many_workers_as_are_meant() -> None:
    """A worker of the default version that is starting again does not cost the next one its place."""
    limping = replace(FACTS, served=ServedState("mine", "1.0", (served(ready=1, workers=4),)))
    found = plan(archive(), limping, Options())
    assert found.workers == 4
    assert "1 READY of 4" in next(check.text for check in found.checks if check.name == "default")


@pytest.mark.parametrize("found", ["auto", None])
def test_workers_that_are_no_number(found: object) -> None:
    """TorchServe ignores them, and so does the plan, which says so."""
    told = plan(archive(config={"minWorkers": found}), replace(FACTS, served=ServedState("mine")), Options())
    assert (told.workers, names(told)) == (1, STEPS)
    assert f"minWorkers is {found!r}" in next(one.text for one in told.checks if one.name == "workers")


def test_less_than_a_megabyte_is_not_none() -> None:
    """Of a small archive it is told how small."""
    found = plan(archive(size=200_000), FACTS, Options())
    assert any(one.text.startswith("0.2 MB are needed in the store") for one in found.checks)


def test_servers_of_one_machine_share_it() -> None:
    """Each fits alone: the second is refused where what the first takes is not there any more."""
    [a, b] = [replace(FACTS, host=name, free_memory=300 * MB, file_system=1) for name in "ab"]
    refusals = [one.refusals for one in plan_all(archive(), (a, b), Options())]
    assert refusals[0] == ()
    assert "100 MB are free when the servers before it have theirs" in refusals[1][0]
    elsewhere = replace(b, free_memory=None)
    assert plan_all(archive(), (a, elsewhere), Options())[1].refusals == ()
    [a, b] = [replace(one, free_memory=None, free_disk=20 * MB) for one in (a, b)]
    assert "2 MB are free when" in plan_all(archive(), (a, b), Options())[1].refusals[0]
    assert plan_all(archive(), (a, replace(b, file_system=2)), Options())[1].refusals == ()
    unpacks: dict[str, Any] = {"temporary": "/tmp/x", "free_temporary": 60 * MB, "temporary_file_system": 3}
    [a, b] = [replace(one, free_disk=60 * MB, file_system=2, **unpacks) for one in (a, b)]
    assert plan_all(archive(), (a, b), Options())[1].refusals == ()
    [a, b] = [replace(one, file_system=3) for one in (a, b)]
    [refusal] = plan_all(archive(), (a, b), Options())[1].refusals
    assert "36 MB are needed in /tmp/x" in refusal
    assert "24 MB are free when" in refusal


def test_what_is_not_unpacked_needs_no_room(tmp_path: Path) -> None:
    """A folder is served where it is; and what is registered was unpacked."""
    tight = replace(FACTS, temporary="/tmp/x", free_temporary=0, temporary_file_system=2)
    assert plan(archive(path=tmp_path), tight, Options()).refusals == ()
    both = replace(tight, served=ServedState("mine", "1.0", (served(), served("2.0"))))
    assert plan(archive(), both, Options()).refusals == ()


@pytest.mark.parametrize("folder", ["there", "there/not yet", "not/yet"])
def test_the_disk_that_a_server_unpacks_on_is_looked_at(tmp_path: Path, folder: str) -> None:
    """Its own temporary folder, or where that will be made; and none where it is not known."""
    (tmp_path / "there").mkdir()
    running = cast("RunningServer", SimpleNamespace(unpacks_into=tmp_path / folder))
    host = Host("local", as_server(serving("1.0", "1.0")), running=running)
    facts = gather_facts(host, archive(), Options())
    assert facts.temporary == str(tmp_path / folder)
    assert facts.free_temporary
    assert facts.temporary_file_system == tmp_path.stat().st_dev
    assert gather_facts(replace(host, running=None), archive(), Options()).free_temporary is None


def test_a_store_of_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked at ends in a sentence, not in a traceback."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    host = Host("local", as_server(serving("1.0", "1.0")), tmp_path / "store")
    with pytest.raises(ReleaseError, match=r"store: Permission denied, looking at local"):
        gather_facts(host, archive(), Options())


def test_a_server_without_metrics_is_told() -> None:
    """The watch cannot see the real traffic there: said before, and no reason to refuse."""
    found = plan(archive(), replace(FACTS, no_metrics="nothing listens there"), Options())
    [check] = [one for one in found.checks if one.name == "metrics"]
    assert (check.outcome, names(found)) == ("warning", STEPS)
    assert "nothing listens there: so the watch" in check.text


@pytest.mark.parametrize("why", REFUSED)
def test_refused(why: str) -> None:
    """Nothing is done, and the reason says what was found."""
    found = plan(*REFUSED[why][:3])
    assert found.steps == ()
    assert (found.needs_disk, found.needs_temporary) == (0, 0)
    assert any(REFUSED[why][3] in text for text in found.refusals), found.refusals


def test_no_signature_is_good_that_was_not_looked_at() -> None:
    """Of a server's own file under that name nobody knows who has signed it, also where it is served."""
    done = ServedState("mine", "2.0", (served("2.0"),))
    facts = replace(FACTS, served=done, in_store="unknown", signature="")
    found = plan(archive(), facts, Options(public_key="public.pem"))
    assert found.refusals
    [check] = [one for one in found.checks if one.name == "signature"]
    assert (check.outcome, "not looked at on the server" in check.text) == ("warning", True)


def test_a_folder_that_would_be_served_instead(tmp_path: Path) -> None:
    """TorchServe takes a folder of that name where it runs before its model store: nobody compares it."""
    running = cast("RunningServer", SimpleNamespace(folder=tmp_path, unpacks_into=tmp_path))
    (tmp_path / "store").mkdir()
    host = Host("local", as_server(serving("1.0", "1.0")), tmp_path / "store", running=running)
    assert gather_facts(host, archive(), Options()).in_store == "absent"
    (tmp_path / "mine-2.0.mar").mkdir()
    with pytest.raises(ReleaseError, match=r"mine-2\.0\.mar: rename this folder: local runs there"):
        gather_facts(host, archive(), Options())


def test_told_and_done_all_the_same() -> None:
    """An estimate of memory from a file's size stops nobody; nor does a store that cannot be seen."""
    first = replace(FACTS, served=ServedState("mine"), free_memory=MB, in_store="unknown", free_disk=None)
    found = plan(archive(digests=None), first, Options())
    assert {check.name for check in found.checks if check.outcome == "warning"} == {
        "digest",
        "store",
        "memory",
    }
    assert names(found) == STEPS[1:]
    short = replace(FACTS, free_memory=150 * MB)
    assert names(plan(archive(), short, Options(ignore_memory=True))) == STEPS


def test_a_pickled_module_is_told() -> None:
    """Whoever releases it lets its file run what it says."""
    config = {"minWorkers": 2, "handler": {"models": {"model": {"file": "model.pt", "format": "pickled"}}}}
    [check] = [one for one in plan(archive(config=config), FACTS, Options()).checks if one.name == "pickle"]
    assert (check.outcome, check.text) == (
        "warning",
        "the archive holds a pickled module: loading it runs code",
    )
    assert all(one.name != "pickle" for one in plan(archive(), FACTS, Options()).checks)


def test_canary_and_shadow() -> None:
    """Between the gate and the switch; afterwards nginx sends everything to the default version."""
    options = Options(
        canary=(1.0, 100.0), nginx="n", nginx_reload="r", access_log="l", shadow=("requests.jsonl",), watch=0
    )
    assert names(plan(archive(), FACTS, options)) == [
        *["copy", "register", "ready", "warm", "gate", "shadow"],
        *["canary 1", "canary 100", "default", "nginx"],
    ]


VERSIONS = st.sampled_from(["1.0", "2.0", "3.0"])
SERVED = st.builds(
    ServedVersion,
    version=VERSIONS | st.just("1.0-standby"),
    archive=st.sampled_from(["mine-1.0.mar", "mine-2.0.mar", "mine-3.0.mar", "mine.mar"]),
    ready=st.integers(0, 3),
    workers=st.integers(0, 3),
    memory=st.integers(0, 10**9),
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    versions = draw(st.lists(SERVED, max_size=3, unique_by=lambda one: one.version))
    default = draw(st.sampled_from([one.version for one in versions])) if versions else None
    return Facts(
        host="local",
        served=ServedState("mine", default, tuple(versions)),
        in_store=draw(st.sampled_from(["absent", "same", "other", "unknown"])),
        free_disk=draw(st.none() | st.integers(0, 10**9)),
        free_memory=draw(st.none() | st.integers(0, 10**9)),
        free_temporary=draw(st.none() | st.integers(0, 10**9)),
        temporary_file_system=draw(st.sampled_from([None, 1])),
        file_system=draw(st.sampled_from([None, 1])),
        no_rights=draw(st.sampled_from(["", "enable_model_api=true is missing"])),
        no_predictions=draw(st.sampled_from(["", "the token was refused"])),
        no_metrics=draw(st.sampled_from(["", "nothing listens there"])),
        signature=draw(st.sampled_from([None, "", "nobody has signed it"])),
        desired=draw(st.none() | VERSIONS),
    )


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    golden = draw(st.lists(st.sampled_from(["a.jpg", "b.jpg", "answers.json"]), unique=True))
    files = tuple(FileEntry(f"{GOLDEN}/{name}", 1, "") for name in golden)
    return archive(
        draw(VERSIONS),
        size=draw(st.integers(1, 10**9)),
        config=draw(st.sampled_from([{}, {"minWorkers": 2}])),
        files=files,
        digests=draw(st.sampled_from([None, listed(files), {"algorithm": "sha256", "files": GONE}])),
    )


GONE = {"algorithm": "sha256", "files": {"model.onnx": {"sha256": "0", "size": 1}}}
OPTIONS = st.builds(
    Options,
    workers=st.none() | st.integers(1, 4),
    watch=st.sampled_from([0.0, 5.0]),
    ignore_memory=st.booleans(),
    promote_inconclusive=st.booleans(),
    request=st.sampled_from([(), ("/a.json",)]),
    shadow=st.sampled_from([(), ("requests.jsonl",)]),
    canary=st.sampled_from([(), (5.0, 100.0), (1.0, 25.0), (100.0,), (50.0, 5.0)]),
    nginx=st.sampled_from([None, "nginx.conf"]),
    nginx_reload=st.sampled_from([None, "nginx -s reload"]),
    access_log=st.sampled_from([None, "access.log"]),
)
ORDER = [*STEPS[:5], "shadow", "canary 1", "canary 5", "canary 25", "canary 100", "default", "nginx", "watch"]


@given(archive=archives(), facts=facts(), options=OPTIONS)
def test_whatever_is_served(archive: Archive, facts: Facts, options: Options) -> None:
    """Pure, in order, a gate before the switch, and nothing at all where anything is refused."""
    found = plan(archive, facts, options)
    assert found == plan(archive, facts, options)
    steps = names(found)
    assert steps == [step for step in ORDER if step in steps], "in order"
    assert found.workers >= 1
    assert bool(found.refusals) <= (steps == [])
    golden = {file.name.removeprefix(f"{GOLDEN}/") for file in archive.files}
    asks = bool(golden - {"answers.json"} or options.request)
    tells = "answers.json" in golden or bool(options.request)
    goes_on = options.promote_inconclusive or (asks and tells)
    assert bool(found.undecidable) <= (not goes_on)
    assert not (found.undecidable and found.refusals)
    if steps:
        assert ("warm" in steps) == asks
        assert goes_on, "no step that is undone in any case"
    default = facts.served.get(facts.served.default)
    if "default" in steps:
        assert steps.index("ready") < steps.index("gate") < steps.index("default")
        assert default is None or default.ready, "there is a way back"
    canary = [step for step in steps if step.startswith("canary")]
    if canary:
        assert steps.index("gate") < steps.index(canary[0])
        assert steps.index(canary[-1]) < steps.index("default") < steps.index("nginx"), (
            "ended after the switch"
        )
        assert options.nginx, "which is written"
        assert options.access_log, "which is judged by"
        assert canary[0] != "canary 100", "there is something to compare with"
    if steps:
        assert not facts.no_rights
        assert not facts.no_predictions
        assert not facts.signature
        assert not archive.problems()
        assert facts.in_store != "other"
        assert facts.desired is None or facts.served.get(facts.desired) is not None, (
            "the way back is not forgotten"
        )
        assert not any(one.version.endswith("-standby") for one in facts.served.versions)
        assert ("copy" in steps) == (facts.in_store == "absent")
        assert ("register" in steps) == (facts.served.get(archive.version) is None)
        compares = goes_on and default is not None and default.version != archive.version
        assert ("shadow" in steps) == (bool(options.shadow) and compares)
        assert bool(canary) == (bool(options.canary) and compares)
        files = [one.archive for one in facts.served.versions if one.version != archive.version]
        assert found.file not in files
        assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("names", "outcome", "said"),
    [
        ((), "warning", "so nothing can be asked of it: name some by `golden:`"),
        (("a.jpg",), "warning", "nothing says what"),
        (("a.jpg", "b.jpg", "answers.json"), "ok", "2 golden requests"),
    ],
)
def test_golden_requests_are_looked_for(names: tuple[str, ...], outcome: str, said: str) -> None:
    """That the gate will not be able to tell is said before anything is done."""
    files = tuple(FileEntry(f"{GOLDEN}/{name}", 1, "") for name in names)
    found = plan(archive(files=files), FACTS, Options())
    [check] = [one for one in found.checks if one.name == "golden"]
    assert check.outcome == outcome
    assert said in check.text


def test_a_plan_says_that_nothing_will_be_asked() -> None:
    """And promises nothing that will not be done: no golden requests."""
    options = Options(promote_inconclusive=True)
    found = plan(archive(files=()), replace(FACTS, no_metrics="no page"), options)
    texts = {step.name: step.text for step in found.steps}
    assert list(texts) == ["copy", "register", "ready", "gate", "default", "watch"]
    assert texts["gate"].startswith("nothing is asked of 2.0 and of 1.0: the archive carries no golden req")
    assert "it goes on all the same, as --promote-inconclusive says" in texts["gate"]
    checks = {check.name: check.text for check in found.checks}
    assert "every request with an error" in checks["golden"]
    assert "the watch sees workers alone" in checks["metrics"]


def test_what_the_gate_cannot_tell_ends_at_the_plan() -> None:
    """Nothing is copied and registered to be undone; but what is served as it should be is done."""
    found = plan(archive(files=()), FACTS, Options())
    assert (found.steps, found.refusals, found.is_done) == ((), (), False)
    assert found.undecidable == "the archive carries no golden requests, so nothing can be asked of it"
    assert "--promote-inconclusive" in str(why_not([found]))
    assert "or give --request" in str(why_not([found]))
    done = ServedState("mine", "2.0", (served("2.0"),))
    there = plan(archive(files=()), replace(FACTS, served=done, in_store="same"), Options())
    assert (there.undecidable, there.is_done, why_not([there])) == ("", True, None)


def test_a_plan_says_what_is_asked_that_was_given() -> None:
    """Besides golden requests, or instead; and that nothing is expected of it."""
    for files, asked, outcome in (
        ((), "2 requests that were given", "warning"),
        (WITH_GOLDEN, "1 golden request and 2 that were given", "ok"),
    ):
        found = plan(archive(files=files), FACTS, Options(request=("/a.json", "/b.txt")))
        texts = {step.name: step.text for step in found.steps}
        assert list(texts) == STEPS
        assert texts["warm"] == f"send two batches to every worker, of {asked}"
        assert "that were given: answers, errors" in texts["gate"]
        [check] = [one for one in found.checks if one.name == "golden"]
        assert (check.outcome, check.text.startswith(asked)) == (outcome, True)
        assert ("whether the answers are right is not known" in check.text) == (not files)


def test_a_plan_says_that_an_archive_may_be_loaded_here() -> None:
    """That runs its code; not where it is told to leave that."""
    texts = [
        next(step.text for step in plan(archive(), FACTS, Options(load=load)).steps if step.name == "ready")
        for load in (True, False)
    ]
    assert ["loaded here" in text for text in texts] == [True, False]
