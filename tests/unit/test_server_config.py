"""config.properties is read as Java reads it, written so that Java reads it back, and ours is hardened."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchmar.errors import ServerError
from torchmar.server import (
    ServerConfig,
    _ports,
    free_ports,
    hardened_config,
    log_config,
    parse_properties,
    read_config,
    unused_ports,
)

ROOT = Path(__file__).resolve().parents[2]


# -- Java's rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        pytest.param("a=b", {"a": "b"}, id="equals"),
        pytest.param("a:b", {"a": "b"}, id="colon"),
        pytest.param("a b", {"a": "b"}, id="space"),
        pytest.param("a\tb", {"a": "b"}, id="tab"),
        pytest.param("a \t=\f b", {"a": "b"}, id="space around"),
        pytest.param("  a=b", {"a": "b"}, id="indented"),
        pytest.param("a=b c  ", {"a": "b c  "}, id="space at the end stays"),
        pytest.param("a==b", {"a": "=b"}, id="second separator"),
        pytest.param("a = = b", {"a": "= b"}, id="second separator after space"),
        pytest.param("a b=c", {"a": "b=c"}, id="space separates first"),
        pytest.param("url=http://127.0.0.1:80", {"url": "http://127.0.0.1:80"}, id="address"),
        pytest.param("a", {"a": ""}, id="no value"),
        pytest.param("a=", {"a": ""}, id="empty value"),
        pytest.param("a=1\na=2", {"a": "2"}, id="the last one wins"),
        pytest.param("# a=b\n! c=d\n\t#e=f\n\n  \n", {}, id="comments"),
        pytest.param("a=b # c", {"a": "b # c"}, id="no comment after a value"),
        pytest.param("# a \\\nb=c", {"b": "c"}, id="a comment does not go on"),
        pytest.param("a=b\\\n   c", {"a": "bc"}, id="continued"),
        pytest.param("a=b\\\n#c", {"a": "b#c"}, id="continued, no comment"),
        pytest.param("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}, id="escaped backslash at the end"),
        pytest.param("a=b\\\\\\\nc", {"a": "b\\c"}, id="three backslashes"),
        pytest.param("a=b\\\n\nc=d", {"a": "b", "c": "d"}, id="continued by nothing"),
        pytest.param("a=b\\", {"a": "b"}, id="continued by the end"),
        pytest.param("\\\n# a=b\nc=d", {"c": "d"}, id="comment after an empty continued line"),
        pytest.param("a\\\n  b=c", {"ab": "c"}, id="key continued"),
        pytest.param("a\\ b=c", {"a b": "c"}, id="escaped space in a key"),
        pytest.param("a\\=b\\:c=d", {"a=b:c": "d"}, id="escaped separators"),
        pytest.param("a=\\t\\n\\r\\f", {"a": "\t\n\r\f"}, id="named escapes"),
        pytest.param("a=\\q\\\"\\'\\b", {"a": "q\"'b"}, id="a needless backslash vanishes"),
        pytest.param("a=C:\\\\x", {"a": "C:\\x"}, id="backslash"),
        pytest.param("a=\\  b", {"a": "  b"}, id="escaped space before a value"),
        pytest.param("a=\\u00e9\\u2713", {"a": "é✓"}, id="unicode"),
        pytest.param("a=\\\\u00e9", {"a": "\\u00e9"}, id="unicode, escaped"),
        pytest.param("a=\\ud83d\\ude00", {"a": "😀"}, id="beyond 16 bits"),
        pytest.param("a=\\u0020b", {"a": " b"}, id="unicode space before a value"),
        pytest.param("a=1\r\nb=2\rc=3\n", {"a": "1", "b": "2", "c": "3"}, id="any line end"),
        pytest.param("a=b\\\r\n  c\r\n", {"a": "bc"}, id="continued over CRLF"),
        pytest.param("a=\xa0b\x85c\xa0", {"a": "\xa0b\x85c\xa0"}, id="other spaces are none"),
        pytest.param("a\xa0b=c", {"a\xa0b": "c"}, id="other spaces in a key"),
        pytest.param("a=b\x0bc\x1cd", {"a": "b\x0bc\x1cd"}, id="other line ends are none"),
    ],
)
def test_a_file_is_read_as_java_reads_it(text: str, settings: dict[str, str]) -> None:
    assert parse_properties(text) == settings


def test_a_file_is_latin_1(tmp_path: Path) -> None:
    """Java's Properties knows no UTF-8."""
    (tmp_path / "config.properties").write_bytes(b"a=\xe9\n")
    assert read_config(tmp_path / "config.properties").get("a") == "é"


@pytest.mark.parametrize("name", ["missing.properties", ""])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServerError, match="cannot be read") as caught:
        read_config(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


TRICKY = (
    "# comment \\\n! another = one\n\n   \t\f\n"
    "plain=1\nplain = 2\r\ncolon : three\rblank    four  \nno_value\nempty=\n"
    "  indented\t=\t \f x y  \nsecond==x\nthird = : y\nescaped\\ key\\=\\:\\#=v\n"
    "continued=one,\\\n    two,\\\r\n\t three\ncontinued_by_comment=a\\\n  # b\n"
    "odd=a\\\\\\\n   b\neven=a\\\\\nnothing=a\\\n\nnext=b\n\\\n# after an empty one\n\\\n   key=value\n"
    "named=\\t\\n\\r\\f\\b\\0\\q\\\"\\'\nunicode=\\u00e9\\u2713\\ud83d\\ude00\\u0020 \\\\u00e9\n"
    "leading=\\ \\u0009x\nlatin=\xe9\xa0\x85\xff\n\xa0key\xa0=\xa0value\xa0\nvertical=\x0ba\x1c\x1db\x0b\n"
    'url=http\\://127.0.0.1\\:8080\njson={"models": {"a": "1.0"}}\nunfinished=x\\'
)

JAVA = """
import java.io.*;
import java.util.*;

public class Read {
    public static void main(String[] arguments) throws IOException {
        Properties properties = new Properties();
        try (InputStream file = new FileInputStream(arguments[0])) {
            properties.load(file);
        }
        for (String key : properties.stringPropertyNames()) {
            System.out.println(hex(key) + " " + hex(properties.getProperty(key)));
        }
    }

    static String hex(String text) {
        StringBuilder digits = new StringBuilder("x");
        for (char unit : text.toCharArray()) {
            digits.append(String.format("%04x", (int) unit));
        }
        return digits.toString();
    }
}
"""


def read_by_java(file: Path, folder: Path) -> dict[str, str]:
    """What java.util.Properties finds in a file."""
    (folder / "Read.java").write_text(JAVA, encoding="ascii")
    command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(folder / "Read.java"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    pairs = [line.split(" ") for line in done.stdout.splitlines()]
    return {_text(key): _text(value) for key, value in pairs}


def _text(digits: str) -> str:
    return bytes.fromhex(digits[1:]).decode("utf-16-be")


needs_jdk = pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")


@needs_jdk
def test_java_itself_reads_the_same(tmp_path: Path) -> None:
    """A file with every trick, and one that we wrote: both are read by java.util.Properties as by us."""
    tricky = tmp_path / "tricky.properties"
    tricky.write_bytes(TRICKY.encode("latin-1"))
    written = tmp_path / "written.properties"
    ours = ServerConfig(None, {f"key{i}": value for i, value in enumerate(VALUES)}).write(written)
    both = tmp_path / "both.properties"
    both.write_bytes(written.read_bytes() + tricky.read_bytes())
    found = read_by_java(both, tmp_path)
    assert found == {**ours.settings, **read_config(tricky).settings}
    assert len(found) > 25


# -- writing ------------------------------------------------------------------------------------

VALUES = [
    "", " x ", "\tx", "\fx", "\x0bx", "#x", "!x", "=x", ":x", "a\\", "\\", "a\nb", "a\r\nb", "\r",
    "é", "\xa0x\xa0", "\x85", "✓", "😀", "\ue000", "\u2028", "\\u0041", "-Xms64m -Xmx512m",
]  # fmt: skip
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties")


@settings(max_examples=200)
@given(found=st.dictionaries(KEYS, TEXTS | st.sampled_from(VALUES), max_size=5))
@example(found={f"key{i}": value for i, value in enumerate(VALUES)})
def test_what_is_written_is_read_back(scratch: Path, found: dict[str, str]) -> None:
    """Any value, whatever is in it."""
    file = scratch / "config.properties"
    assert ServerConfig(None, found).write(file) == ServerConfig(file, found)
    assert read_config(file) == ServerConfig(file, found)


@settings(max_examples=150)
@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    found = parse_properties(text)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in found.items())


def test_with_settings_changes_a_copy() -> None:
    """The copy belongs to no file until it is written."""
    config = ServerConfig(Path("config.properties"), {"a": "1", "b": "2"})
    changed = config.with_settings({"b": "3", "c": "4"})
    assert changed == ServerConfig(None, {"a": "1", "b": "3", "c": "4"})
    assert config.settings == {"a": "1", "b": "2"}


# -- what it says -------------------------------------------------------------------------------


def test_defaults_are_torchserves() -> None:
    config = ServerConfig(None, {})
    addresses = (config.inference, config.management, config.metrics)
    assert addresses == ("http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082")
    assert config.ports() == {
        "inference_address": 8080,
        "management_address": 8081,
        "metrics_address": 8082,
        "grpc_inference_port": 7070,
        "grpc_management_port": 7071,
    }
    assert config.get("initial_worker_port") == "9000"
    assert config.get("no_such_setting") == ""


def test_settings_replace_defaults() -> None:
    config = ServerConfig(
        None, {"inference_address": "https://127.0.0.1:8443/", "grpc_management_port": "9071"}
    )
    assert config.inference == "https://127.0.0.1:8443"
    assert config.ports()["inference_address"] == 8443
    assert config.ports()["grpc_management_port"] == 9071


@pytest.mark.parametrize(
    ("key", "scheme", "port"),
    [
        ("inference_address", "http", 80),
        ("inference_address", "https", 443),
        ("management_address", "http", 8081),
        ("management_address", "https", 8444),
        ("metrics_address", "http", 8082),
        ("metrics_address", "https", 8445),
    ],
)
def test_an_address_without_a_port_has_torchserves_for_it(key: str, scheme: str, port: int) -> None:
    """As its Connector.parse has them; not always the scheme's own."""
    config = ServerConfig(None, {key: f"{scheme}://127.0.0.1"})
    assert config.ports()[key] == port


NO_ADDRESSES = [
    "http://127.0.0.1:port", "http://127.0.0.1:99999", "http://[::1", "127.0.0.1:8081", "localhost:8081",
    "8081", "ftp://127.0.0.1", "http://", "",
]  # fmt: skip


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_an_address_that_is_none_is_named(address: str, tmp_path: Path) -> None:
    """TorchServe would not start; what to mend is told, before anything else is done with the file."""
    config = ServerConfig(None, {"management_address": address})
    with pytest.raises(ServerError) as caught:
        config.ports()
    assert f"management_address={address} is no address" in str(caught.value)
    config.write(tmp_path / "config.properties")
    with pytest.raises(ServerError) as caught:
        read_config(tmp_path / "config.properties")
    assert str(tmp_path / "config.properties") in str(caught.value)


def test_a_unix_socket_is_an_address_without_a_port() -> None:
    config = ServerConfig(None, {"management_address": "unix:/tmp/management.sock"})
    assert config.management == "unix:/tmp/management.sock"
    assert "management_address" not in config.ports()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("TRUE", True),
        ("True", True),
        ("false", False),
        ("", False),
        ("1", False),
        ("yes", False),
        ("true ", False),
    ],
)
def test_is_true_is_javas_parse_boolean(text: str, expected: bool) -> None:
    """A typing slip is false there, so it must be false here."""
    assert ServerConfig(None, {"a": text}).is_true("a") is expected


def test_free_ports_are_six_different_ones_on_this_machine_only() -> None:
    config = free_ports(ServerConfig(None, {"inference_address": "http://0.0.0.0:8080", "a": "1"}))
    numbers = {*config.ports().values(), int(config.get("initial_worker_port"))}
    assert len(numbers) == 6
    assert {urlsplit(a).hostname for a in (config.inference, config.management, config.metrics)} == {
        "127.0.0.1"
    }
    assert config.get("a") == "1"


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("32768\t60999\n", range(20000, 32768)),
        ("15000 65000", range(5000, 15000)),
        ("1024 65535", range(1024, 65536)),
        ("", range(20000, 49152)),
    ],
)
def test_no_port_may_become_that_of_an_outgoing_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, allowed: range
) -> None:
    """Where there are enough of others; any port else."""
    file = tmp_path / "ip_local_port_range"
    file.write_text(setting)
    monkeypatch.setattr(_ports, "_OUTGOING", file)
    monkeypatch.delenv(_ports.FREE_PORTS, raising=False)
    found = unused_ports(50)
    assert len(set(found)) == 50
    assert set(found) <= set(allowed)


def test_the_environment_names_the_ports_to_choose_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that who starts several servers at once can keep them apart."""
    monkeypatch.setenv(_ports.FREE_PORTS, "21000-21199")
    assert set(unused_ports(20)) <= set(range(21000, 21200))
    monkeypatch.setenv(_ports.FREE_PORTS, "21000-21001")
    with pytest.raises(ServerError, match=r"fewer than 3 ports .* TORCHMAR_FREE_PORTS=21000-21001"):
        unused_ports(3)


@pytest.mark.parametrize(
    "told", ["21000", "21000-", "21001-21000", "0-9", "65000-65536", "-1-5", "a-b", "\u0661-9"]
)
def test_a_range_of_ports_that_is_none(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(_ports.FREE_PORTS, told)
    with pytest.raises(ServerError, match="give the first and the last port, as 20000-20999"):
        unused_ports(1)


# -- the one at the root ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("disable_token_authorization", "false"),
        ("allowed_urls", "^$"),
        ("enable_model_api", "true"),
        ("default_workers_per_model", "1"),
        ("metrics_mode", "prometheus"),
        ("enable_envvars_config", "false"),
        ("install_py_dep_per_model", "false"),
    ],
)
def test_our_configuration_is_hardened(setting: str, value: str) -> None:
    assert read_config(ROOT / "config.properties").settings[setting] == value


def test_our_configuration_bounds_the_jvm() -> None:
    assert "-Xmx" in read_config(ROOT / "config.properties").get("vmargs")


def test_our_configuration_listens_on_this_machine_only() -> None:
    """Each API on its own port, so that each can have its own token."""
    config = read_config(ROOT / "config.properties")
    hosts = [urlsplit(address).hostname for address in (config.inference, config.management, config.metrics)]
    hosts += [config.settings["grpc_inference_address"], config.settings["grpc_management_address"]]
    assert all(ipaddress.ip_address(host or "").is_loopback for host in hosts)
    assert len(set(config.ports().values())) == 5


def test_the_packages_configuration_is_the_roots() -> None:
    """A wheel has no root: what `serve` uses without a config.properties is the same, hardened one."""
    root = Path(__file__).resolve().parent.parent.parent
    packaged = root / "torchmar" / "data" / "config.properties"
    assert packaged.read_bytes() == (root / "config.properties").read_bytes()
    assert hardened_config().settings == read_config(root / "config.properties").settings


def test_the_packages_logging_is_the_roots() -> None:
    """`serve` uses it in a folder that has none of its own."""
    assert log_config().read_bytes() == (ROOT / "log4j2.xml").read_bytes()
    assert ElementTree.parse(log_config()).getroot().tag == "Configuration"  # else Java logs nothing at all


def test_the_thread_pool_is_the_same_with_and_without_vmargs() -> None:
    """A start by hand reads one file, `torchmar serve` the other."""
    properties = parse_properties((ROOT / "log4j2.system.properties").read_text())
    [(name, value)] = properties.items()
    assert f"-D{name}={value}" in read_config(ROOT / "config.properties").get("vmargs").split()
