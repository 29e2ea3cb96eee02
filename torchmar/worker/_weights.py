"""Say what to do when TorchServe's BaseHandler cannot load a manifest's serializedFile."""

from __future__ import annotations

import re

_FILE = "name the file with the module's class, as `model_file` in model.yaml or by --model-file"
_SAVE = "save the state dict alone, by torch.save(module.state_dict(), FILE)"

# The errors of torch, onnxruntime and ts/torch_handler/base_handler.py, with their remedies.
_KNOWN = (
    (
        "failed locating file constants.pkl",
        f"{_FILE}; or save it by torch.jit.save: without that file it is taken for TorchScript",
    ),
    (
        "No model weights could be loaded",
        f"{_FILE}; or name TorchScript .pt, and ONNX .onnx: nothing else is taken without that file",
    ),
    (
        "Expected only one class as model definition",
        "leave one class in the file with the module's class, and import the others from another file",
    ),
    ("Missing the model.py file", "pack the file that the manifest calls modelFile"),
    ("Weights only load failed", f"{_SAVE}: it holds objects"),
    ("Expected state_dict to be dict-like", f"{_SAVE}: it holds something else"),
    ("External data path", "pack the file with its weights, too, beside the .onnx: `files` in model.yaml"),
)
_MISFIT = re.compile(r"Error\(s\) in loading state_dict for (?P<module>\w+)")
_UNEXPECTED = re.compile(r"Unexpected key\(s\) in state_dict: (?P<keys>[^\n]*)")
_ENTRY = re.compile(r'"[^".]*"')  # a name without a dot, such as a checkpoint's own keys


def to_load(error: BaseException | None) -> str | None:
    """Return the remedy and the problem in one line; None for an error about something else."""
    message = str(error)
    remedy = next((remedy for text, remedy in _KNOWN if text in message), None)
    misfit = _MISFIT.search(message)
    if remedy is not None:
        return f"{remedy} ({message.strip().splitlines()[0][:200]})"
    if misfit is None:
        return None
    unexpected = _UNEXPECTED.search(message)
    keys = "" if unexpected is None else unexpected["keys"]
    if "Missing key(s)" in message and _ENTRY.search(keys):
        return f"{_SAVE}: it holds {keys.rstrip('. ')}, and no weights of {misfit['module']} by their names"
    lines = " ".join(line.strip() for line in message.splitlines()[1:])
    return f"give the state dict of {misfit['module']}, or change that class: {lines[:300]}"
