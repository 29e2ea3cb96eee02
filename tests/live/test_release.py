"""Releases against a real server: what is good becomes the default, what is bad never does."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchmar import mar
from torchmar.client import connect
from torchmar.errors import ArchiveCorrupt, ReleaseError, ReleaseRefused
from torchmar.release import history, observe, plan_release, release, retire, rollback, write_report
from torchmar.release._journal import Journal

from .candidates import LABELS, QUICK, UNJUDGED, ask, candidate, fleet_of
from .servers import ROOT, Live


def test_forward_back_and_forward(server: Live, tmp_path: Path) -> None:
    """v1 → v2 → rollback → v2 → v1 retired: all of it is journaled, and each version has its own file."""
    fleet = fleet_of(server, tmp_path / "releases")
    one, two = (mar.verify(candidate(tmp_path, "road", version)) for version in ("1.0", "2.0"))
    assert release(fleet, one, QUICK).outcome == "promoted"
    result = release(fleet, two, QUICK)
    assert result.outcome == "promoted", result.reason
    assert ask(server, "road")["version"] == "2.0"
    assert (server.store / "road-2.0.mar").read_bytes() == two.path.read_bytes()

    back = rollback(fleet, "road")
    assert (back.outcome, back.default) == ("rolled back", "1.0")
    assert ask(server, "road")["version"] == "1.0"
    with pytest.raises(ReleaseError, match="--to"):
        rollback(fleet, "road")

    again = release(fleet, two, QUICK)
    assert again.outcome == "promoted"
    assert "register" not in [step.name for step in again.plans[0].steps], "it was registered still"
    retire(fleet, "road", "1.0", QUICK)
    assert [one.version for one in observe(server.clients, "road").versions] == ["2.0"]
    assert (server.store / "road-1.0.mar").exists(), "the way back"
    kinds = [(one.kind, one.outcome) for one in history(fleet.journal("road")).records]
    assert kinds == [
        ("release", "promoted"),
        ("release", "promoted"),
        ("rollback", "rolled back"),
        ("release", "promoted"),
        ("retire", "retired"),
    ]
    assert release(fleet, two, QUICK).outcome == "nothing"


def test_what_the_docs_show_from_python(server: Live, tmp_path: Path) -> None:
    """docs/releases.md's block: released, taken back, and scaled."""
    text = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
    [block] = re.findall(r"## From Python\n\n((?:    .*\n|\n)+)", text)
    fleet = fleet_of(server, server.running.folder / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "mine", "1.0")), QUICK).outcome == "promoted"
    here = {
        '"served"': repr(str(server.running.folder)),
        '"mine-2.0.mar"': repr(str(candidate(tmp_path, "mine", "2.0"))),
    }
    for shown, given in here.items():
        assert shown in block
        block = block.replace(shown, given)
    exec(compile(textwrap.dedent(block), "docs/releases.md", "exec"), {})
    served = observe(server.clients, "mine")
    assert (served.default, len(served.versions)) == ("1.0", 2)
    default = served.get("1.0")
    assert default is not None
    assert default.ready == 4
    assert [one.kind for one in history(fleet.journal("mine")).records][-2:] == ["rollback", "scale"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "wrong labels": ({"labels": dict(zip(LABELS, ("dog", "emu", "cat"), strict=True))}, "agree"),
    "not what its golden answers say": ({"expected": {**LABELS, "b": "fox"}}, "fox"),
    "three times slower": ({"seconds": 0.06}, "slow"),
    "crashes on one golden request": ({"act": "asked['key'] == 'c' and os._exit(1)"}, "c.json"),
    "missing dependency": ({"prelude": "import a_package_that_is_missing"}, "a_package_that_is_missing"),
    "import that hangs": ({"prelude": "time.sleep(600)"}, "READY"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_candidates_never_become_default(bad: str, server: Live, tmp_path: Path) -> None:
    """The old version goes on, the reason is told, and nothing is left behind."""
    changes, reason = BAD[bad]
    name = "bad_" + "".join(c for c in bad if c.isalpha())
    fleet = fleet_of(server, tmp_path / "releases")
    options = replace(QUICK, ready_timeout=3.0 if "hangs" in bad else 30.0)
    good = candidate(tmp_path, name, "1.0", seconds=0.02)
    assert release(fleet, mar.verify(good), options).outcome == "promoted"
    defaults: list[str | None] = []
    watched = replace(fleet, on_entry=lambda _entry: defaults.append(observe(server.clients, name).default))
    archive = mar.verify(candidate(tmp_path, name, "2.0", **{"seconds": 0.02, **changes}))
    result = release(watched, archive, options)
    assert result.outcome == "failed", result
    assert reason in result.reason, result.reason
    assert set(defaults) == {"1.0"}
    served = observe(server.clients, name)
    assert [one.version for one in served.versions] == ["1.0"]
    assert ask(server, name)["version"] == "1.0"
    assert not list(server.store.glob(f"*{name}-2.0*")), "its copy is gone, too"


def test_a_flipped_byte_is_seen_before_anything_is_done(server: Live, tmp_path: Path) -> None:
    """An archive that is not what was built is neither copied nor registered."""
    path = candidate(tmp_path, "flipped", "1.0", padding=1000)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] = 1
    path.write_bytes(content)
    with pytest.raises(ArchiveCorrupt, match="padding"):
        mar.verify(path)
    with pytest.raises((ReleaseRefused, ArchiveCorrupt)):
        release(fleet_of(server, tmp_path / "releases"), mar.read(path), QUICK)
    assert observe(server.clients, "flipped").default is None
    assert not (server.store / "flipped-1.0.mar").exists()


def test_without_golden_requests_nothing_can_be_told(server: Live, tmp_path: Path) -> None:
    """Inconclusive is not promoted, unless told to."""
    fleet = fleet_of(server, tmp_path / "releases")
    archives = [mar.verify(candidate(tmp_path, "untold", v, golden=False)) for v in ("1.0", "2.0")]
    told = replace(QUICK, promote_inconclusive=True)
    assert release(fleet, archives[0], told).outcome == "promoted"
    result = release(fleet, archives[1], QUICK)
    assert result.outcome == "inconclusive"
    assert "--promote-inconclusive" in result.reason
    assert not (server.store / "untold-2.0.mar").exists()
    assert observe(server.clients, "untold").default == "1.0"
    assert release(fleet, archives[1], told).outcome == "promoted"


def test_traps_are_refused(server: Live, tmp_path: Path) -> None:
    """Two versions in one file name, a default without workers, a name that is taken: refused, and why."""
    fleet = fleet_of(server, tmp_path / "releases")
    # As upstream's examples have it: the same file name, written over for the second version.
    for version in ("1.0", "2.0"):
        candidate(tmp_path, "trap", version).replace(server.store / "trap.mar")
        server.management.register("trap.mar", initial_workers=1)
        server.management.wait_until_ready("trap", version)
    third = mar.verify(candidate(tmp_path, "trap", "3.0"))
    with pytest.raises(ReleaseRefused, match=r"1\.0 and 2\.0 are both served from the file 'trap\.mar'"):
        release(fleet, third, QUICK)

    first = mar.verify(candidate(tmp_path, "idle", "1.0"))
    assert release(fleet, first, QUICK).outcome == "promoted"
    server.management.scale("idle", 0)
    with pytest.raises(ReleaseRefused, match="no READY worker"):
        release(fleet, mar.verify(candidate(tmp_path, "idle", "2.0")), QUICK)

    other = candidate(tmp_path, "idle", "1.0", seconds=0.5)
    with pytest.raises(ReleaseRefused, match="other contents"):
        release(fleet, mar.verify(other), QUICK)
    assert [one.version for one in observe(server.clients, "idle").versions] == ["1.0"]


def test_a_plan_changes_nothing(server: Live, tmp_path: Path) -> None:
    """`--dry-run`: what would be done is told, and the server and its store are as before."""
    fleet = fleet_of(server, tmp_path / "releases")
    [plan] = plan_release(fleet, mar.verify(candidate(tmp_path, "planned", "1.0")), QUICK)
    names = ["copy", "register", "ready", "warm", "gate", "default", "watch"]
    assert [step.name for step in plan.steps] == names
    assert observe(server.clients, "planned").versions == ()
    assert not (server.store / "planned-1.0.mar").exists()
    assert not (tmp_path / "releases").exists()


def test_one_at_a_time(server: Live, tmp_path: Path) -> None:
    """Who releases holds the model: a second release is told by whom, and does nothing."""
    fleet = fleet_of(server, tmp_path / "releases")
    with Journal(fleet.folder, "held").locked(), pytest.raises(ReleaseError, match="is changing it"):
        release(fleet, mar.verify(candidate(tmp_path, "held", "1.0")), QUICK)


def test_a_new_default_that_breaks_is_put_back(server: Live, tmp_path: Path) -> None:
    """What the gate could not see, the watch does: a worker that dies after the switch."""
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "breaks", "1.0")), QUICK).outcome == "promoted"

    def break_it(entry: Any) -> None:
        if (entry.event, entry.step) == ("begin", "watch"):
            with pytest.raises(Exception, match="Worker died"):
                ask(server, "breaks", die=True)

    act = "asked.get('die') and os._exit(1)"
    archive = mar.verify(candidate(tmp_path, "breaks", "2.0", act=act))
    result = release(replace(fleet, on_entry=break_it), archive, QUICK)
    assert result.outcome == "failed"
    assert "did not pass the watch" in result.reason
    assert ask(server, "breaks")["version"] == "1.0"
    assert [one.version for one in observe(server.clients, "breaks").versions] == ["1.0"]


def test_a_new_default_that_hangs_is_put_back(
    server: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for as long as TorchServe would wait for its worker."""
    monkeypatch.setattr("torchmar.release._gate._HANGS", 2.0)
    fleet, flag = fleet_of(server, tmp_path / "releases"), tmp_path / "hangs"
    assert release(fleet, mar.verify(candidate(tmp_path, "hangs", "1.0")), UNJUDGED).outcome == "promoted"

    def hang(entry: Any) -> None:
        if (entry.event, entry.step) == ("begin", "watch"):
            flag.touch()

    act = f"os.path.exists({str(flag)!r}) and time.sleep(600)"
    archive = mar.verify(candidate(tmp_path, "hangs", "2.0", act=act, config={"responseTimeout": 300}))
    result = release(replace(fleet, on_entry=hang), archive, UNJUDGED)
    assert result.outcome == "failed"
    assert "no answer within 2 s" in result.reason
    assert ask(server, "hangs")["version"] == "1.0"
    assert [one.version for one in observe(server.clients, "hangs").versions] == ["1.0"]


def test_the_journal_is_json_lines(server: Live, tmp_path: Path) -> None:
    """Each step is there twice, before and after the act, with its seconds."""
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "lines", "1.0")), QUICK).outcome == "promoted"
    lines = [json.loads(line) for line in (tmp_path / "releases" / "lines.jsonl").read_text().splitlines()]
    steps = [(line["event"], line["step"]) for line in lines if line["event"] in {"begin", "done"}]
    names = ["copy", "register", "ready", "warm", "gate", "default", "watch"]
    assert steps == [(event, name) for name in names for event in ("begin", "done")]
    assert all("seconds" in line["data"] for line in lines if line["event"] == "done")
    [gate] = [line["data"] for line in lines if (line["event"], line.get("step")) == ("done", "gate")]
    assert gate["traffic"].keys() == {"answers", "errors", "requests", "seconds"}, (
        "for a watch after `resume`"
    )


def test_recorded_requests_as_a_shadow(server: Live, tmp_path: Path) -> None:
    """What real callers sent decides, too: who answers them otherwise fails, and the page shows it."""
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "shadowed", "1.0")), QUICK).outcome == "promoted"
    entries = [{"request": _har_request("shadowed", {"key": "b", "sleep": 0})} for _ in range(24)]
    file = tmp_path / "real.har"
    file.write_text(json.dumps({"log": {"version": "1.2", "entries": entries}}))
    # Golden requests say nothing of `sleep`; those who send it would get another answer.
    act = "asked.update(key='a') if 'sleep' in asked else None"
    other = mar.verify(candidate(tmp_path, "shadowed", "2.0", act=act))
    options = replace(QUICK, shadow=(str(file),))
    result = release(fleet, other, options)
    assert result.outcome == "failed"
    assert "did not pass the shadow" in result.reason
    page = write_report(fleet, result)
    assert page is not None
    text = page.read_text()
    assert "recorded requests" in text
    assert "cat" in text
    assert ask(server, "shadowed")["version"] == "1.0"
    good = mar.verify(candidate(tmp_path, "shadowed", "3.0"))
    assert release(fleet, good, options).outcome == "promoted"


def _har_request(model: str, body: dict[str, Any]) -> dict[str, Any]:
    post = {"mimeType": "application/json", "text": json.dumps(body)}
    return {"method": "POST", "url": f"http://127.0.0.1:8080/predictions/{model}", "postData": post}


def test_last_words_that_are_lost_are_said_again(server: Live, tmp_path: Path) -> None:
    """TorchServe may miss why a worker died: then the archive is loaded here, which tells it."""
    fleet = fleet_of(server, tmp_path / "releases")
    deaf = connect(
        inference=server.running.config.inference,
        management=server.running.config.management,
        metrics=server.running.config.metrics,
        key_file=server.running.key_file,
    )
    with deaf:
        host = replace(fleet.hosts[0], server=deaf)
        archive = mar.verify(candidate(tmp_path, "mute", "1.0", prelude="import a_package_that_is_missing"))
        result = release(replace(fleet, hosts=(host,)), archive, replace(QUICK, ready_timeout=5.0))
    assert result.outcome == "failed"
    assert "loading it here" in result.reason
    assert "a_package_that_is_missing" in result.reason
