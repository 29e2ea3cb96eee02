"""The archives of a model by descent, with what the journals say of each: as a tree, as JSON, as a page."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from torchmar import mar
from torchmar.cli import app
from torchmar.errors import ArchiveError
from torchmar.history import ModelHistory, default, model_history, write_page
from torchmar.lineage import Lineage, Metric, Parent
from torchmar.release import past_of
from torchmar.release._journal import Journal

from .servers_in_memory import FleetOf, released, serving, unfinished, write

SHA = "ab" * 32
ROLES = [f"part {number}" for number in range(20)]
ACCURACY = {"accuracy": Metric(0.97, 0.95, 0.98, 360, SHA)}
PRICE = {
    "quantize": "int8",
    "bytes": {"float": 18_600_000, "compressed": 5_100_000},
    "cost": {"value": 0.188},
    "agreement": 0.98,
}


def put(
    store: Path,
    version: str,
    lineage: Lineage | None = None,
    *,
    name: str = "m",
    files: Mapping[str, Any] | None = None,
) -> Path:
    """NAME-VERSION.mar of a few bytes, with this lineage; `files` are those of MAR-INF/."""
    path = store / f"{name}-{version}.mar"
    store.mkdir(exist_ok=True)
    model = {"modelName": name, "modelVersion": version, "handler": "h.py"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(mar.MANIFEST, json.dumps({"model": model}))
        archive.writestr("h.py", f"# {version}")
        if lineage is not None:
            archive.writestr(mar.LINEAGE, lineage.as_bytes())
        for file, content in (files or {}).items():
            archive.writestr(f"MAR-INF/{file}", json.dumps(content))
    return path


def after(archive: Path, **more: Any) -> Lineage:
    return Lineage(parent=mar.read(archive).as_parent(), **more)


def tree(found: ModelHistory) -> list[tuple[int, str]]:
    return [(one.depth, one.version) for one in found.versions]


def test_descent(tmp_path: Path) -> None:
    """Each below its parent, ordered as numbers; without a lineage a root; other models are left out."""
    one = put(tmp_path, "1.0")
    two = put(tmp_path, "1.2", after(one))
    put(tmp_path, "1.10", after(one))
    put(tmp_path, "2.0", after(two))
    put(tmp_path, "0.9")
    put(tmp_path, "1.0", name="m-other")
    found = model_history("m", tmp_path)
    assert tree(found) == [(0, "0.9"), (0, "1.0"), (1, "1.2"), (2, "2.0"), (1, "1.10")]
    assert (found.broken, found.defaults, found.others) == ((), {}, ("m-other",))
    assert {one.note for one in found.versions} == {""}


def test_a_parent_that_is_gone_is_named(tmp_path: Path) -> None:
    """Once for all of its children; one of another model by its name."""
    gone, foreign = Parent("m", "0.1", SHA), Parent("big", "3", SHA)
    for version, parent in (("1.0", gone), ("1.1", gone), ("2.0", foreign)):
        put(tmp_path, version, Lineage(parent))
    found = model_history("m", tmp_path)
    assert tree(found) == [(0, "0.1"), (1, "1.0"), (1, "1.1"), (0, "3"), (1, "2.0")]
    assert [one.archive is None for one in found.versions] == [True, False, False, True, False]
    assert found.versions[3].name == "big"


def test_a_parent_in_both_forms(tmp_path: Path) -> None:
    """Of two archives with the same version a child stands below the one that it was built from."""
    mar_file, folder = put(tmp_path, "1.0", Lineage(seed=1)), tmp_path / "m-1.0"
    with zipfile.ZipFile(put(tmp_path / "other", "1.0")) as archive:
        archive.extractall(folder)
    put(tmp_path, "1.1", after(mar_file))
    put(tmp_path, "1.2", after(folder))
    found = model_history("m", tmp_path).versions
    assert [(one.depth, one.archive and one.archive.path.name, one.note) for one in found] == [
        (0, "m-1.0.mar", ""),
        (1, "m-1.1.mar", ""),
        (0, "m-1.0", ""),
        (1, "m-1.2.mar", ""),
    ]


def test_a_parent_that_was_built_again(tmp_path: Path) -> None:
    """It is told that the child follows another archive of that version."""
    child = after(put(tmp_path, "1.0"))
    put(tmp_path, "1.1", child)
    put(tmp_path, "1.0", Lineage(seed=1))
    [_, found] = model_history("m", tmp_path).versions
    assert (found.depth, found.note) == (
        1,
        "m 1.0 was built again since: this one follows another archive of that version",
    )


def test_a_circle_ends(tmp_path: Path) -> None:
    """Each archive is listed once, however their lineages were forged."""
    for version, parent in (("1", "2"), ("2", "3"), ("3", "1"), ("4", "4")):
        put(tmp_path, version, Lineage(Parent("m", parent, SHA)))
    found = model_history("m", tmp_path).versions
    assert sorted(one.version for one in found) == ["1", "2", "3", "4"]
    assert len([one for one in found if "descends from it" in one.note]) == 2


def test_broken_archives_are_listed(tmp_path: Path) -> None:
    """With the reason, and the others are told all the same."""
    put(tmp_path, "1.0")
    lost = {"algorithm": "sha256", "files": {"gone.py": {"sha256": SHA, "size": 1}}}
    put(tmp_path, "1.1", files={"digests.json": lost})
    put(tmp_path, "1.2", files={"lineage.json": {"seed": "x"}})
    (tmp_path / "torn.mar").write_bytes(b"PK\3\4")
    found = model_history("m", tmp_path)
    assert tree(found) == [(0, "1.0")]
    reasons = {one.path.name: one.reason for one in found.broken}
    assert list(reasons) == ["m-1.1.mar", "m-1.2.mar", "torn.mar"]
    assert "gone.py: missing" in reasons["m-1.1.mar"]
    assert reasons["m-1.2.mar"].startswith("MAR-INF/lineage.json: seed: expected a whole number")


def test_what_the_journal_tells(fleet_of: FleetOf) -> None:
    """Released, rolled back, retired, failed, unfinished, or changed by hand."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    back = write(fleet, "rollback", "1.0", targets={"local": "1.0"})
    fake.default = "1.0"
    back.write("served", "local", default="1.0", versions=[])
    back.write("finished", outcome="rolled back")
    for kind, number, outcome in (("retire", "2.0", "retired"), ("release", "3.0", "failed")):
        write(fleet, kind, number).write("finished", outcome=outcome, reason="it was slow")
    by_hand = write(fleet, "set-default", "")
    by_hand.write(
        "served",
        "local",
        default="2.0",
        versions=[{"version": "2.0", "archive": "a", "ready": 1, "workers": 1}],
    )
    by_hand.write("finished", outcome="done")
    unfinished(fleet, "copy", number="4.0")
    past = past_of(fleet.folder, "m")
    assert [(one.version, one.what, one.why) for one in past.events] == [
        ("1.0", "released", ""),
        ("2.0", "released", ""),
        ("2.0", "rolled back", "to 1.0"),
        ("1.0", "default again", ""),
        ("2.0", "retired", ""),
        ("3.0", "release failed", "it was slow"),
        ("2.0", "made the default", "by set-default"),
        ("1.0", "unregistered", "by set-default"),
        ("4.0", "release unfinished", ""),
    ]
    assert past_of(fleet.folder, "other") == type(past)()


def test_versions_that_only_a_journal_knows(tmp_path: Path, fleet_of: FleetOf) -> None:
    """Were released, and their archives are elsewhere; a journal that is no file is told."""
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0", "2.0")
    put(tmp_path / "store", "2.0")
    bad = tmp_path / "bad"
    (bad / "m.jsonl").mkdir(parents=True)
    found = model_history("m", tmp_path / "store", [fleet.folder, bad])
    assert [(one.version, one.archive is None, one.default_on) for one in found.versions] == [
        ("1.0", True, ()),
        ("2.0", False, ("local",)),
    ]
    assert "could not be read" in found.unread[0]


def test_two_journals(tmp_path: Path, fleet_of: FleetOf) -> None:
    """Of two servers with the same name: their folders tell them apart."""
    for number, folder in (("1.0", "a"), ("2.0", "b")):
        fleet = fleet_of(serving("1.0", "1.0"))
        released(fleet, number)
        fleet.folder.rename(tmp_path / folder)
        put(tmp_path / "store", number)
    found = model_history("m", tmp_path / "store", [tmp_path / "a", tmp_path / "b"])
    assert [one.default_on for one in found.versions] == [
        (f"local ({tmp_path / 'a'})",),
        (f"local ({tmp_path / 'b'})",),
    ]
    assert default(found.versions[0], found) == f"default on local ({tmp_path / 'a'})"


def test_a_standby_is_no_version_of_its_own(fleet_of: FleetOf) -> None:
    """Of a scaling that was interrupted: it answers for the version that it is named after."""
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0")
    served = [{"version": one, "archive": "a", "ready": 1, "workers": 1} for one in ("1.0", "1.0-standby")]
    write(fleet, "scale", "").write("served", "local", default="1.0-standby", versions=served)
    past = past_of(fleet.folder, "m")
    assert [one.what for one in past.events] == ["released"]
    assert past.defaults == {"local": "1.0"}


def test_any_journal_is_read(tmp_path: Path) -> None:
    """What was edited by hand says nothing."""
    journal = Journal(tmp_path, "m")
    journal.append("a", "finished", outcome="promoted")
    journal.append("b", "planned", kind=5)
    journal.append(
        "c", "planned", kind="release", version="1.0", served={"h": {"default": "0.9", "versions": []}}
    )
    journal.append("c", "served", host="h", default=7)
    journal.append("c", "finished", outcome="promoted")
    past = past_of(tmp_path, "m")
    assert [(one.version, one.what) for one in past.events] == [("1.0", "released")]
    assert past.defaults == {"h": "0.9"}


@pytest.fixture
def site(tmp_path: Path, fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store, and a journal in which 1.0 and 1.1 were released."""
    store = tmp_path / "model_store"
    one = put(store, "1.0")
    put(
        store,
        "1.1",
        after(one, seed=7, metrics=ACCURACY, data=dict.fromkeys(ROLES, SHA)),
        files={"price.json": PRICE},
    )
    (store / "torn.mar").write_bytes(b"PK\3\4")
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0", "1.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tree_that_is_printed(site: Path) -> None:
    """Plain in a pipe: versions, default, metric, origin, price, releases; and what is broken."""
    done = CliRunner().invoke(app, ["history", "m"])
    assert done.exit_code == 0, done.output
    text = re.sub(r"\d{4}-\d\d-\d\d  \d\d:\d\d", "DATE", done.stdout)
    one = mar.read(site / "model_store" / "m-1.0.mar")
    assert text.startswith(
        f"m\n└── 1.0\n    archive  m-1.0.mar, {one.size} B\n    DATE released\n"
        "    └── 1.1  default  accuracy 0.97 [0.95, 0.98] on 360 examples\n"
    )
    [built] = [line for line in text.splitlines() if line.startswith("        built  ")]
    assert built.startswith(f"        built  from m 1.0 (sha256 {one.sha256[:12]}…), seed 7, data part 0 ")
    assert built.endswith("part 9 abababababab…"), "the line of a pipe is whole"
    assert "        price  int8: 18.6 MB → 5.1 MB, cost 0.188, agreement 0.98\n" in text
    assert "\nBroken archives\ntorn.mar: " in text


def test_json(site: Path) -> None:
    """Everything, for machines."""
    told = json.loads(CliRunner().invoke(app, ["history", "m", "--json"]).stdout)
    assert (told["defaults"], [one["path"] for one in told["broken"]]) == (
        {"local": "1.1"},
        ["model_store/torn.mar"],
    )
    [one, child] = told["versions"]
    assert child["parent"] == {"name": "m", "version": "1.0", "sha256": one["archive"]["sha256"]}
    assert (child["depth"], child["default_on"]) == (1, ["local"])
    assert Lineage.of(child["archive"]["lineage"]).metrics == ACCURACY
    assert [event["what"] for event in child["events"]] == ["released"]


def test_the_page(site: Path) -> None:
    """Self-contained, balanced, and its links lead somewhere; what a stranger wrote is escaped."""
    put(site / "model_store", "2.0", Lineage(Parent("<b>m", "1", SHA), metrics={"<i>": ACCURACY["accuracy"]}))
    done = CliRunner().invoke(app, ["history", "m", "--report", "page.html"])
    assert (done.exit_code, "report: page.html" in done.stdout) == (0, True)
    html = (site / "page.html").read_text(encoding="utf-8")
    assert "<h1>m, history</h1>" in html
    assert "default 1.1" in html
    for tag in ("ul", "li", "a", "h3", "table", "tr", "td"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag
    links = re.findall(r'href="#([^"]+)"', html)
    assert len(links) == 4
    assert all(html.count(f'id="{link}"') == 1 for link in links)
    assert "<b>m" not in html
    assert "<i>" not in html.replace("<i class", "")
    assert "http" not in html.replace("http-equiv", "")


def test_a_long_chain(tmp_path: Path) -> None:
    """Of a model that is kept up to date: the tree and the page stop indenting, and lose none."""
    last = put(tmp_path, "1")
    for number in range(2, 41):
        last = put(tmp_path, str(number), after(last))
    done = CliRunner().invoke(app, ["history", "m", "--store", str(tmp_path)])
    assert max(len(line) - len(line.lstrip(" │├└─")) for line in done.stdout.splitlines()) <= 4 * 10
    assert "─ 40\n" in done.stdout
    write_page(tmp_path / "page.html", model_history("m", tmp_path))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("<li>") == html.count("</li>") == 40
    assert html.count("<ul>") == html.count("</ul>") == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("n",), "n: give the name of a model that has an archive in model_store: this store has m"),
        (("m", "--store", "nowhere"), "--store nowhere: give the model store: No such file or directory"),
        (("m", "--report", "nowhere/page.html"), "--report nowhere/page.html: cannot be written"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, site: Path) -> None:
    """What to give instead."""
    done = CliRunner().invoke(app, ["history", *arguments])
    assert done.exit_code == 1
    assert message in f"{done.exception}{done.stderr}"


def test_no_store() -> None:
    """From Python, too."""
    with pytest.raises(ArchiveError, match="give the model store"):
        model_history("m", Path("/nowhere"))
