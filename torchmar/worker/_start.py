"""Start a check's process as TorchServe's worker starts, then check the archive.

Python runs an archive's sitecustomize first, as in a worker. main() imports nothing of the archive until it
has read from standard input where the verdict goes. Then it imports what the worker imports, in the worker's
order and from the worker's places, so that an archive's numpy.py or yaml/ shadows the real one here too. Last
it imports torchmar, which must see none of the archive's modules.
"""

# The archive may replace pathlib and what it imports:
# ruff: noqa: PTH100, PTH113, PTH118, PTH120

import os
import sys
import time
from types import ModuleType

# What ts/model_service_worker.py imports, directly or not; used if torchserve is not installed.
_WORKERS_IMPORTS = (
    *("argparse", "asyncio", "concurrent.futures.thread", "enum", "functools", "importlib", "json"),
    *("logging", "platform", "queue", "socket", "struct", "types", "typing", "uuid", "yaml", "psutil"),
    "torch",
)


def main() -> None:
    """Read the order, start, check, report."""
    began = time.monotonic()
    order = sys.stdin.buffer.read()
    report, nonce, here, folder, record, *requests = map(os.fsdecode, order.split(b"\0"))
    os.set_inheritable(int(report), False)
    if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    server = next((entry for entry in sys.path if _has_torchserve(entry, folder)), None)
    error = _start_as_a_worker(server)
    check_into = _from_torchmar(here, folder)
    check_into(
        folder,
        int(report),
        nonce,
        began=began,
        start_error=error,
        is_server=server is not None,
        record=bool(record),
        requests=requests,
    )


def _has_torchserve(entry: str, folder: str) -> bool:
    entry = os.path.abspath(entry)
    worker = os.path.join(entry, "ts", "model_service_worker.py")
    return not _is_inside(entry, folder) and os.path.isfile(worker)


def _start_as_a_worker(server: str | None) -> BaseException | None:
    """Import what a worker imports before it loads a model. Returns the error that would kill it."""
    try:
        if server is None:
            _import_what_is_installed()
            return None
        home = os.path.join(server, "ts")
        sys.path.insert(0, home)  # Python puts a program's own folder there; the worker removes it
        importing = __import__("model_service_worker")
        sys.path.remove(home)
        del sys.modules["model_service_worker"]
        sys.argv = [os.path.join(home, "model_service_worker.py"), "--sock-type", "unix"]
        sys.argv += ["--sock-name", ".ts.sock.9000", "--metrics-config", f"{home}/configs/metrics.yaml"]
        importing.logging.basicConfig(stream=sys.stdout, format="%(message)s", level=importing.logging.INFO)
    except BaseException as error:
        return error
    return None


def _import_what_is_installed() -> None:
    sys.argv = ["model_service_worker.py"]
    for name in _WORKERS_IMPORTS:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise


def _from_torchmar(here: str, folder: str):  # type: ignore[no-untyped-def]
    """Import torchmar without the archive's modules, and restore those afterwards.

    torchmar's folder is on sys.path only meanwhile: an archive that lacks a module must not find it there.
    """
    archives = {name: module for name, module in sys.modules.items() if _lies_in(module, folder)}
    before, search = set(sys.modules), list(sys.path)
    for name in archives:
        del sys.modules[name]
    sys.path[:] = [*(entry for entry in search if not _is_inside(entry, folder)), here]
    from torchmar.worker._check import check_into

    sys.path[:] = search
    brought = {entry.name.partition(".")[0] for entry in os.scandir(folder)}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in brought:  # so that the handler imports the archive's own
            del sys.modules[name]
    sys.modules.update(archives)
    return check_into


def _lies_in(module: ModuleType, folder: str) -> bool:
    file = getattr(module, "__dict__", {}).get("__file__")
    return isinstance(file, str) and _is_inside(file, folder)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


if __name__ == "__main__":
    main()
