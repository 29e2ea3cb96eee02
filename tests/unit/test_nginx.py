"""nginx's configuration of a canary, and what is read from its log. What nginx makes of both: tests/live."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar.errors import ReleaseError
from torchmar.routers import Logged, Share
from torchmar.routers.access_log import AccessLog
from torchmar.routers.nginx import Canary, Nginx, configuration, described, standalone

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,40}", fullmatch=True)


def canary(**changes: Any) -> Canary:
    values: dict[str, Any] = {
        "model": "mine",
        "candidate": "2.0",
        "percent": 5,
        "default": "1.0",
        "upstreams": ("127.0.0.1:8080",),
        "access_log": Path("/var/log/nginx/torchmar.log"),
    }
    return Canary(**{**values, **changes})


def sides(text: str) -> list[str]:
    """The parts of split_clients."""
    block = re.search(r"split_clients .*?\{\n(.*?)\n\}", text, re.DOTALL)
    assert block is not None
    return [line.strip() for line in block[1].split("\n")]


def shape(text: str) -> str:
    """Only what nginx's parser goes by, less the contents of quotes and comments."""
    text = re.sub(r"#.*", "", text)
    text = re.sub(r'"[^"\n]*"|\'[^\'\n]*\'', "\0", text)
    return re.sub(r"[^{};\0\n]+", "w", text)


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (0, ['* "1.0";']),
        (0.01, ['0.01% "2.0";', '* "1.0";']),
        (5, ['5% "2.0";', '* "1.0";']),
        (12.5, ['12.5% "2.0";', '* "1.0";']),
        (99.99, ['99.99% "2.0";', '* "1.0";']),
        (100, ['* "2.0";']),
    ],
)
def test_steps(percent: float, expected: list[str]) -> None:
    """Every step from nobody to everybody, in nginx's words: it takes no 0 %."""
    assert sides(configuration(canary(percent=percent))) == expected


def test_without_a_pinned_default_the_rest_stays_unpinned() -> None:
    """Version "" becomes no pin."""
    assert sides(configuration(canary(default=None))) == ['5% "2.0";', '* "";']


def test_what_it_says_of_the_servers() -> None:
    """Hosts, the size of a body, and a time to wait that is longer than the server's own."""
    text = configuration(
        canary(
            upstreams=("10.0.0.1:8080", "[::1]:8080", "ts-2.internal:80"),
            response_timeout=30,
            max_body=7_000_000,
        )
    )
    for line in (
        "server 10.0.0.1:8080 ",
        "server [::1]:8080 ",
        "server ts-2.internal:80 ",
        "client_max_body_size 7000000;",
        "proxy_read_timeout 60s;",
    ):
        assert line in text


def test_the_candidate_is_asked_where_it_is() -> None:
    """All else goes to all servers, and what was written can be read back: these, and no others."""
    text = configuration(canary(upstreams=("a:80", "b:80"), candidate_upstreams=("b:80",)))
    blocks = dict(re.findall(r"^upstream (\w+) \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE))
    assert re.findall(r"server (\S+)", blocks["torchmar_servers"]) == ["a:80", "b:80"]
    assert re.findall(r"server (\S+)", blocks["torchmar_candidate"]) == ["b:80"]
    assert described("server { listen 80; }") is None


@given(
    st.builds(
        canary, model=NAMES, candidate=NAMES, default=st.none() | NAMES, max_body=st.none() | st.just(7)
    ),
    st.booleans(),
)
def test_what_was_written_can_be_read_back(written: Canary, windows: bool) -> None:
    """Also where an editor of Windows has saved it; an older file without it is not ours."""
    text = configuration(written)
    assert described(text.replace("\n", "\r\n") if windows else text) == written
    assert described(re.sub("(?m)^# {.*$", "# {}", text)) is None


def test_without_a_known_limit_nginx_has_none() -> None:
    """The server's own refuses what is too large, and a body that it would take is not lost before."""
    assert "client_max_body_size 0;" in configuration(canary())


def test_sticky_by_another_header() -> None:
    """In nginx's spelling."""
    assert "map $http_x_user_id $torchmar_key" in configuration(canary(key_header="X-User-Id"))


@settings(max_examples=60)
@given(NAMES, NAMES, NAMES)
def test_names_change_no_structure(model: str, candidate: str, default: str) -> None:
    """Whatever a model and its versions are called, it is the same configuration with other words."""
    text = configuration(canary(model=model, candidate=candidate, default=default))
    assert shape(text) == shape(configuration(canary()))


@settings(max_examples=60)
@given(
    st.text() | st.from_regex(r"[a-z]+[ ;{}\"'$#\\\n][a-z/;{}]*", fullmatch=True), st.sampled_from(range(5))
)
def test_nothing_is_injected(text: str, where: int) -> None:
    """What could mean something to nginx is refused, wherever it comes from; the rest changes nothing."""
    field = ("model", "candidate", "default", "key_header", "access_log")[where]
    value: Any = Path("/" + text) if field == "access_log" else text
    try:
        found = configuration(canary(**{field: value}))
    except ReleaseError:
        return
    assert shape(found) == shape(configuration(canary()))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "a;b"},
        {"model": "a b"},
        {"model": "mine\n"},
        {"model": "$uri"},
        {"candidate": '2.0"; evil'},
        {"default": ""},
        {"percent": 100.5},
        {"percent": -1},
        {"percent": 0.001},
        {"percent": float("nan")},
        {"upstreams": ()},
        {"upstreams": ("localhost",)},
        {"upstreams": ("localhost:0",)},
        {"upstreams": ("localhost:80; evil:80",)},
        {"upstreams": ("[::1:8080",)},
        {"upstreams": ("[127.0.0.1]:80",)},
        {"listen": "unix:/tmp/x"},
        {"listen": "*:8088;"},
        {"key_header": "X_Key"},
        {"key_header": ""},
        {"access_log": Path("relative.log")},
        {"access_log": Path("/var/log/$uri.log")},
        {"access_log": Path('/var/log/"x.log')},
        {"response_timeout": 0},
        {"max_body": 0},
    ],
)
def test_what_cannot_be_written_is_refused(changes: dict[str, Any]) -> None:
    """With what was found."""
    with pytest.raises(ReleaseError, match="nginx: "):
        canary(**changes)


def test_standalone_includes_it() -> None:
    """A whole nginx.conf; its file's name cannot break it."""
    assert 'include "/srv/canary.conf";' in standalone(Path("/srv/canary.conf"))
    with pytest.raises(ReleaseError, match=r"absolute path of plain characters"):
        standalone(Path('/srv/"; evil'))


# -- the log ------------------------------------------------------------------------------------


def line(version: str = "2.0", status: int = 200, **changes: Any) -> str:
    content: dict[str, Any] = {
        "time": 1.0,
        "model": "mine",
        "version": version,
        "status": f"{status:03}",
        "seconds": 0.5,
        "upstream_seconds": "0.010",
        "upstream": "127.0.0.1:8080",
    }
    return json.dumps({**content, **changes}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "torchmar.log"


def read(log: Path) -> dict[str | None, Logged]:
    """All of a log: opened before it was there."""
    content, place = log.read_bytes(), log.with_name("late.log")
    opened = AccessLog(place, "mine")
    place.write_bytes(content)
    return dict(opened.read())


def test_requests_errors_and_latencies_of_each_version(log: Path) -> None:
    """4xx of the handler are no errors; 404, 499, 5xx and no status at all are. Other models do not count."""
    statuses = (200, 200, 400, 413, 404, 499, 500, 503, 0)
    log.write_text(
        "".join(line(status=status) for status in statuses)
        + line("1.0")
        + line("", upstream_seconds="-")
        + line(model="other")
    )
    traffic = read(log)
    assert traffic == {
        "2.0": Logged(requests=9, errors=5, seconds=(0.01, 0.01)),
        "1.0": Logged(requests=1, seconds=(0.01,)),
        None: Logged(requests=1, seconds=(0.5,)),
    }


def test_the_time_of_every_server_that_was_tried_counts(log: Path) -> None:
    """As nginx writes it for several."""
    log.write_text(line(upstream_seconds="0.250, 0.500 : -"))
    assert read(log)["2.0"].seconds == (0.75,)


def counted(log: AccessLog) -> dict[str | None, int]:
    return {version: found.requests for version, found in log.read().items()}


def test_each_line_is_read_once(log: Path) -> None:
    """From where its end was; half a line waits until it is whole."""
    log.write_text(line() * 3)
    opened = AccessLog(log, "mine")
    whole = line("1.0")
    assert counted(opened) == {}
    with log.open("a") as more:
        more.write(whole + whole[:20])
    assert counted(opened) == counted(opened) == {"1.0": 1}
    with log.open("a") as more:
        more.write(whole[20:])
    assert counted(opened) == {"1.0": 2}


def test_a_rotated_log_is_read_to_its_end(log: Path) -> None:
    """logrotate's rename: the rest of the old file is in LOG.1, then comes the new one."""
    log.write_text(line())
    opened = AccessLog(log, "mine")
    with log.open("a") as more:
        more.write(line() * 2)
    log.rename(log.with_name("torchmar.log.1"))
    assert counted(opened) == {"2.0": 2}
    log.write_text(line() * 4)
    assert counted(opened) == {"2.0": 6}
    with log.open("a") as more:
        more.write(line())
    assert counted(opened) == {"2.0": 7}


def test_a_truncated_log_is_read_from_its_start(log: Path) -> None:
    """logrotate's copytruncate."""
    log.write_text(line() * 3)
    opened = AccessLog(log, "mine")
    log.write_text(line())
    assert counted(opened) == {"2.0": 1}


@pytest.mark.parametrize("text", ["", "\n", "not json\n", "[]\n", "null\n", '{"model": "mine"}\n', "\xff\n"])
def test_lines_that_are_not_ours_are_skipped(log: Path, text: str) -> None:
    """Someone's own format in the same file."""
    log.write_bytes(text.encode("latin-1") + line().encode())
    assert read(log)["2.0"].requests == 1


def test_a_log_that_is_not_there_yet_is_empty(log: Path) -> None:
    """nginx makes it at its next reload."""
    assert AccessLog(log, "mine").read() == {}


def test_a_log_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Silence would be no errors at all, and a canary that passes."""
    with pytest.raises(ReleaseError, match="access log cannot be read: Is a directory"):
        AccessLog(tmp_path, "mine")


def test_what_is_written_to_a_rotated_log_later_counts(log: Path) -> None:
    """logrotate's `create`: nginx writes into LOG.1 until it opens the new file."""
    log.write_text(line())
    opened = AccessLog(log, "mine")
    rotated = log.with_name("torchmar.log.1")
    log.rename(rotated)
    log.write_text("")
    assert counted(opened) == {}
    with rotated.open("a") as more:
        more.write(line() * 2)
    assert counted(opened) == {"2.0": 2}
    log.write_text(line())
    assert counted(opened) == {"2.0": 3}


def test_the_share_of_another_model_stays(tmp_path: Path) -> None:
    """Its candidate may have the same number. A file of an older torchmar is no stranger's."""
    file = tmp_path / "nginx.conf"
    file.write_text(configuration(canary()))
    router = Nginx(file, Path("/log"), "127.0.0.1:8088", None)
    assert not router.clear("other", "2.0")
    assert router.clear("mine", "2.0")
    file.write_text("# Written by `torchmar release`, which replaces it at each step.\nserver {}\n")
    with pytest.raises(ReleaseError, match=r"write it anew .* an older torchmar"):
        router.set_share(Share("mine", "2.0", 5, "1.0", "http://127.0.0.1:8080"))
