"""Fine-tune the module of a model folder on labelled requests.

    trained = finetune(load_model(Path("models/digits")), read_dataset(Path("data/train")), Path("tuned.pt"))
    build(source, store, weights=Weights("tuned.pt"))

It minimises (1/N) Σ |f(x, w) − y|² + λ R(w), or the cross-entropy where the label is a class. The requests go
through the handler's own decode, so that the module sees what it will see in a worker.
"""

from ._augment import augmentation
from ._config import TrainingConfig
from ._data import TrainingData, training_data
from ._run import Trained, finetune
from ._trainer import Fitted, Trainer

__all__ = [
    "Fitted",
    "Trained",
    "Trainer",
    "TrainingConfig",
    "TrainingData",
    "augmentation",
    "finetune",
    "training_data",
]
