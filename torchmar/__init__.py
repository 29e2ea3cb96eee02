"""torchmar takes a trained PyTorch model to a TorchServe server that can be trusted."""

__version__ = "0.1.0"
