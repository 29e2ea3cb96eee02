"""Describes the machine of a measurement: CPU, memory, system, versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from torchmar.errors import JavaNotFound
from torchmar.server import find_java

_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_PACKAGES = ("torchserve", "torch", "torchvision", "onnxruntime", "numpy", "pillow")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return the CPU, memory and system of this machine."""
    cpu, flags = _cpu()
    return {
        "cpu": cpu,
        "cores": cores(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def load() -> float:
    """Return the mean number of processes that wanted a processor in the last five minutes."""
    return round(psutil.getloadavg()[1], 1)


def versions() -> dict[str, str]:
    """Return the versions of Python, Java and the packages that torchmar's systems run on."""
    found = {"python": platform.python_version()}
    try:
        found["java"] = str(find_java(os.environ).major)
    except JavaNotFound:
        found["java"] = "none"
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def one_line(machine: Mapping[str, Any]) -> str:
    """Return the machine on one line."""
    instructions = ", ".join(machine["instructions"]) or "no wide instructions"
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({instructions}), {machine['memory_gb']} GB, "
        f"{machine['system']}"
    )


def _cpu() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1] if name else platform.machine(), set(flags[1].split()) if flags else set()
