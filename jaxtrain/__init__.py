"""jaxtrain: train a neural network with JAX and Flax, and understand the run.

Importing it does no work and changes no JAX setting. The parts not listed here are public in their modules:
`jaxtrain.types`, `jaxtrain.step`, `jaxtrain.program`, `jaxtrain.errors` and so on.
"""

from jaxtrain.checks import check
from jaxtrain.config import (
    Adam,
    Augment,
    Config,
    DataConfig,
    EarlyStopping,
    Experiment,
    Muon,
    Plateau,
    Schedule,
    Sgd,
)
from jaxtrain.data import epoch, from_arrays, load_data
from jaxtrain.lr_range import lr_range
from jaxtrain.models import CNN, MLP, Airbench, BatchNorm, Conv, Dropout, Linear, PatchWhitening, ResNet
from jaxtrain.optim import optimizer
from jaxtrain.plots import plot_schedule
from jaxtrain.probe import make_probe
from jaxtrain.report import write_report
from jaxtrain.run import fit
from jaxtrain.runs import Ensemble, load_run
from jaxtrain.search import run_search
from jaxtrain.space import Choice, Halving, Range, Search
from jaxtrain.step import make_eval_step, make_init, make_train_step, recalibrate
from jaxtrain.tasks import Classification, Regression
from jaxtrain.types import Hyper

__version__ = "0.1.0"

__all__ = [
    "CNN",
    "MLP",
    "Adam",
    "Airbench",
    "Augment",
    "BatchNorm",
    "Choice",
    "Classification",
    "Config",
    "Conv",
    "DataConfig",
    "Dropout",
    "EarlyStopping",
    "Ensemble",
    "Experiment",
    "Halving",
    "Hyper",
    "Linear",
    "Muon",
    "PatchWhitening",
    "Plateau",
    "Range",
    "Regression",
    "ResNet",
    "Schedule",
    "Search",
    "Sgd",
    "check",
    "epoch",
    "fit",
    "from_arrays",
    "load_data",
    "load_run",
    "lr_range",
    "make_eval_step",
    "make_init",
    "make_probe",
    "make_train_step",
    "optimizer",
    "plot_schedule",
    "recalibrate",
    "run_search",
    "write_report",
]
