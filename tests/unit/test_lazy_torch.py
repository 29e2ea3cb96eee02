"""The stand-in for torch: nothing is loaded until torch is really used, and then it is the one real torch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INSTALLED = """
    import importlib.util, sys, types
    from handlers.worker.lazy_torch import install
    install()
    stand_in = sys.modules["torch"]

    def loaded():
        return [name for name in sys.modules if name.startswith("torch.")]
"""


def python(code: str, *path: Path, options: tuple[str, ...] = ()) -> str:
    """What the code prints in a fresh interpreter with `path` before the project; it must not fail."""
    search = os.pathsep.join(str(entry) for entry in [*path, ROOT])
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Error in sitecustomize" not in done.stderr
    return done.stdout


def with_stand_in(code: str, *path: Path) -> str:
    return python(textwrap.dedent(INSTALLED) + textwrap.dedent(code), *path)


def without_torch(code: str) -> str:
    """In an interpreter without site-packages, where torch is as missing as it can be."""
    return python(textwrap.dedent(INSTALLED) + textwrap.dedent(code), options=("-S",))


# -- before torch is used -----------------------------------------------------------------------


def test_what_a_worker_does_loads_nothing() -> None:
    """TorchServe's worker imports torch and asks whether an answer is a tensor, and no more."""
    with_stand_in("""
        import torch
        assert torch is stand_in
        assert not isinstance(7, torch.Tensor)
        assert not isinstance(object(), torch.Tensor)
        assert sys.modules["torch"] is stand_in
        assert loaded() == []
    """)


def test_find_spec_finds_the_real_one_and_loads_nothing() -> None:
    """Libraries ask so whether torch is installed."""
    with_stand_in("""
        spec = importlib.util.find_spec("torch")
        assert spec.name == "torch"
        assert spec.origin.endswith("__init__.py")
        assert loaded() == []
    """)


def test_looking_over_all_modules_loads_nothing() -> None:
    """inspect.stack() and the like ask every module for its file."""
    with_stand_in("""
        import inspect
        inspect.stack()
        assert inspect.getmodule(install).__name__ == "handlers.worker.lazy_torch"
        assert stand_in.__file__ == importlib.util.find_spec("torch").origin
        assert loaded() == []
    """)


def test_installing_twice_is_installing_once() -> None:
    """No second stand-in, no second finder."""
    with_stand_in("""
        finders = list(sys.meta_path)
        install()
        assert sys.modules["torch"] is stand_in
        assert sys.meta_path == finders
    """)


def test_a_torch_that_is_loaded_already_stays() -> None:
    """There is nothing left to save."""
    python("""
        import sys, types
        sys.modules["torch"] = real = types.ModuleType("torch")
        finders = list(sys.meta_path)
        from handlers.worker.lazy_torch import install
        install()
        assert sys.modules["torch"] is real
        assert sys.meta_path == finders
    """)


# -- the first real use -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first_use",
    [
        "import torch.nn.functional as F",
        pytest.param("from torch import nn", marks=pytest.mark.slow),
        "import torch; torch.zeros(2)",
        pytest.param("import torch._inductor", marks=pytest.mark.slow),
    ],
)
def test_the_first_real_use_gives_the_one_real_torch(first_use: str) -> None:
    """Whoever uses it first and however: one torch, nothing executed twice, old references as good as new."""
    with_stand_in(f"""
        {first_use}
        import torch
        import torch.nn.functional as F
        from torch import nn

        assert torch is sys.modules["torch"] is not stand_in
        assert type(torch) is types.ModuleType
        assert "torch._inductor" not in {first_use!r} or torch._inductor is sys.modules["torch._inductor"]
        assert torch.nn is stand_in.nn is nn is sys.modules["torch.nn"]
        assert torch.nn.functional is F is sys.modules["torch.nn.functional"]
        for module in (torch, nn, F):
            assert module.__spec__.name == module.__name__
            assert importlib.util.find_spec(module.__name__) is module.__spec__
            assert module.__spec__.loader is module.__loader__
            assert not type(module.__loader__).__module__.startswith("handlers")

        assert torch.Tensor is stand_in.Tensor
        assert isinstance(F.relu(stand_in.zeros(2)), torch.Tensor)
        assert isinstance(nn.Linear(2, 2), sys.modules["torch.nn.modules.module"].Module)
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).shape == (1, 2)
    """)


@pytest.mark.parametrize(
    "first_use",
    [
        "import torch.nn",
        "import torch.nn.functional as F",
        "import torch.nn.extra",
        "from torch import nn",
        "from torch import Tensor",
        "from torch.nn import functional",
        "from torch import *",
        "import torch; torch.nn",
        "importlib.util.find_spec('torch.nn')",
        "importlib.import_module('torch.nn')",
    ],
)
def test_nothing_of_torch_is_executed_twice(first_use: str, tmp_path: Path) -> None:
    """Two copies of a module have two copies of its classes: an instance of one is none of the other.

    A torch of four files, each of which says that it is executed.
    """
    (tmp_path / "torch" / "nn").mkdir(parents=True)
    imports = {
        "__init__": "from . import nn\nclass Tensor: ...",
        "nn/__init__": "from . import functional",
        "nn/functional": "",
        "nn/extra": "",
    }
    for name, text in imports.items():
        (tmp_path / "torch" / f"{name}.py").write_text(f"print(__name__)\n{text}")
    code = f"""
        {first_use}
        import torch.nn.extra, torch.nn.functional
        assert torch is sys.modules["torch"] is not stand_in
        assert torch.nn is stand_in.nn is sys.modules["torch.nn"]
        assert torch.nn.functional is sys.modules["torch.nn.functional"]
        assert {first_use!r} != "from torch import Tensor" or Tensor is torch.Tensor
        importlib.reload(torch.nn.extra)
    """
    executed = with_stand_in(code, tmp_path).splitlines()
    assert executed == ["torch", "torch.nn", "torch.nn.functional", "torch.nn.extra", "torch.nn.extra"]


def test_a_torch_that_cannot_be_loaded_says_so_every_time(tmp_path: Path) -> None:
    """Half-installed: each use raises what the real import raises, and the stand-in goes on standing in."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so is missing')")
    code = """
        import torch
        for _ in range(2):
            try:
                torch.zeros(2)
            except ImportError as error:
                print(error)
            try:
                import torch.nn
            except ImportError as error:
                print(error)
            assert sys.modules["torch"] is stand_in
            assert not isinstance(7, torch.Tensor)
    """
    assert with_stand_in(code, tmp_path).splitlines() == ["libcudart.so is missing"] * 4


def test_a_misspelt_name_is_an_attribute_error(tmp_path: Path) -> None:
    """The error is the real torch's own."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("def zeros(): ...")
    code = """
        assert not hasattr(stand_in, "zeroes")
        assert hasattr(stand_in, "zeros")
        try:
            import torch.nm
        except ModuleNotFoundError as error:
            print(error)
    """
    assert with_stand_in(code, tmp_path).strip() == "No module named 'torch.nm'"


# -- where torch is not installed ---------------------------------------------------------------


def test_where_torch_is_not_installed_a_worker_gets_its_answers() -> None:
    """No answer is a tensor, no GPU is there, and nobody is told a version."""
    without_torch("""
        import torch
        assert not isinstance(7, torch.Tensor)
        assert torch.cuda.is_available() is False
        assert not hasattr(torch, "__version__")
        assert not hasattr(torch, "__path__")
    """)


@pytest.mark.parametrize(
    "use",
    [
        "import torch; torch.zeros(2)",
        "from torch import nn",
        "import torch.nn",
        "import torch.nn.functional as F",
        "import torch; hasattr(torch, 'compile')",
    ],
)
def test_where_torch_is_not_installed_using_it_says_so(use: str) -> None:
    """The error that everybody knows, and not an AttributeError from somewhere within."""
    without_torch(f"""
        try:
            {use}
        except ModuleNotFoundError as error:
            assert "No module named 'torch" in str(error)
        else:
            raise AssertionError("nothing was raised")
        assert sys.modules["torch"] is stand_in
    """)


# -- the sitecustomize that an archive's own one hides ------------------------------------------

SITECUSTOMIZE = """
from handlers.worker.lazy_torch import install, run_shadowed_sitecustomize
print("the archive's")
install()
run_shadowed_sitecustomize(__file__)
print("done")
"""


def folder_with_sitecustomize(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return folder


def test_the_hidden_sitecustomize_is_run(tmp_path: Path) -> None:
    """What the environment set up for every Python still happens, after the archive's own."""
    archive = folder_with_sitecustomize(tmp_path / "archive", SITECUSTOMIZE)
    environment = folder_with_sitecustomize(tmp_path / "environment", "print('the environment\\'s')")
    code = """
        import sys
        print(type(sys.modules["torch"]).__name__, sys.modules["sitecustomize"].__file__)
    """
    assert python(code, archive, environment).splitlines() == [
        "the archive's",
        "the environment's",
        "done",
        f"LazyTorch {archive / 'sitecustomize.py'}",
    ]


def test_without_a_hidden_sitecustomize_there_is_nothing_to_run(tmp_path: Path) -> None:
    """Nor is the archive's own one taken for it where its folder is on the path twice."""
    archive = folder_with_sitecustomize(tmp_path / "archive", SITECUSTOMIZE)
    (tmp_path / "link").symlink_to(archive)
    assert python("", archive, tmp_path / "link", archive).splitlines() == ["the archive's", "done"]
