"""An override changes the field it names and nothing else, and whatever is wrong is one sentence."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

from jaxtrain.config import Config, DataConfig, EarlyStopping, Experiment, Plateau
from jaxtrain.errors import RequestError
from jaxtrain.models import ResNet
from jaxtrain.overrides import overrides_help, parse_overrides
from jaxtrain.types import Hyper


class Net(nn.Module):
    """A network of the user's.

    Its second paragraph is not shown.
    """

    hidden: Sequence[int] = (256,)
    """Widths of the hidden layers, 100 % of them."""
    norm: bool = False
    activation: Callable[..., Any] = nn.relu
    scale: float | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"a": "b"})

    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(image)


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes a network."""

    width: int = 8

    def make(self):
        return Net((self.width,))


EXPERIMENT = Experiment(Net(), DataConfig(), hyper=Hyper(dropout_rate=0.1, extra={"lambda": 0.5, "gamma": 2.0}))


def override(*args: str, experiment: Experiment = EXPERIMENT) -> Experiment:
    return parse_overrides(experiment, list(args), prog="train.py")


@pytest.mark.parametrize(
    ("args", "read", "expected"),
    [
        (["--epochs", "3"], lambda e: e.config.epochs, 3),
        (["--config.epochs", "3"], lambda e: e.config.epochs, 3),
        (["--config.config.epochs=3"], lambda e: e.config.epochs, 3),
        (["--batch-size=1_000"], lambda e: e.config.batch_size, 1000),
        (["--epochs=3", "--epochs=4"], lambda e: e.config.epochs, 4),
        (["--config.hyper.learning_rate=3e-3"], lambda e: e.hyper.learning_rate, 3e-3),
        (["--hyper.learning-rate", "3e-3"], lambda e: e.hyper.learning_rate, 3e-3),
        (["--hyper.l2", "1"], lambda e: e.hyper.l2, 1.0),
        (["--hyper.dropout_rate=None"], lambda e: e.hyper.dropout_rate, None),
        (["--hyper.extra.lambda", "-1e-3"], lambda e: e.hyper.extra, {"lambda": -1e-3, "gamma": 2.0}),
        (["--data.dir", "a b"], lambda e: e.data.dir, "a b"),
        (["--data.path=x=y.npz"], lambda e: e.data.path, "x=y.npz"),
        (["--data.download=false"], lambda e: e.data.download, False),
        (["--augment.flip"], lambda e: e.config.augment.flip, True),
        (["--schedule.kind", "step"], lambda e: e.config.schedule.kind, "step"),
        (["--optimizer.nesterov=True"], lambda e: e.config.optimizer.nesterov, True),
        (["--frozen", "Dense_0", "Block_1/Conv_0"], lambda e: e.config.frozen, ("Dense_0", "Block_1/Conv_0")),
        (["--model.hidden", "256", "128"], lambda e: e.model.hidden, (256, 128)),
        (["--model.hidden=(256, 128)"], lambda e: e.model.hidden, (256, 128)),
        (["--model.hidden=64"], lambda e: e.model.hidden, (64,)),
        (["--model.hidden="], lambda e: e.model.hidden, ()),
        (["--watch=-rmse"], lambda e: e.config.watch, "-rmse"),
        (["--watch", "-rmse"], lambda e: e.config.watch, "-rmse"),
        (["--model.scale=2"], lambda e: e.model.scale, 2.0),
        (["--plateau"], lambda e: e.config.plateau, Plateau()),
        (["--early_stopping.patience=2"], lambda e: e.config.early_stopping, EarlyStopping(patience=2)),
        (["--plateau.patience=2", "--plateau=None"], lambda e: e.config.plateau, None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_override_reaches_its_field(args, read, expected):
    assert read(override(*args)) == expected
    assert type(read(override(*args))) is type(expected)


def test_override_changes_nothing_else():
    changed = override("--epochs=3", "--model.hidden=5")
    assert changed == dataclasses.replace(
        EXPERIMENT, model=Net(hidden=(5,)), config=dataclasses.replace(EXPERIMENT.config, epochs=3)
    )
    assert override() == EXPERIMENT
    assert changed.model.activation is nn.relu


def test_model_may_be_a_dataclass_with_make():
    changed = override("--model.width=3", experiment=Experiment(Maker(), DataConfig()))
    assert changed.model == Maker(3)


def test_functions_are_left_as_they_are():
    def lion(hyper, schedule):
        return None

    experiment = Experiment(Net(), DataConfig(), Config(optimizer=lion))
    assert override("--epochs=3", experiment=experiment).config.optimizer is lion
    with pytest.raises(RequestError, match="unknown key '--optimizer.nesterov'"):
        override("--optimizer.nesterov=True", experiment=experiment)
    assert "optimizer" not in overrides_help(experiment, prog="train.py").replace("an optimizer", "")


def test_arrays_in_hyper_are_shown_as_numbers():
    experiment = Experiment(Net(), DataConfig(), hyper=Hyper(l1=jnp.float32(0.25)))
    assert override("--hyper.l1=0.5", experiment=experiment).hyper.l1 == 0.5
    assert "(default: 0.25)" in overrides_help(experiment, prog="train.py")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--epoch=3"], ["unknown key '--epoch'", "did you mean '--epochs'?"]),
        (["--config.hyper.learning_rat=1"], ["'--config.hyper.learning_rat'", "'--hyper.learning_rate'?"]),
        (["--learning_rate=1"], ["'--learning_rate'", "'--hyper.learning_rate'?"]),
        (["--xyzzy=1"], ["'--xyzzy'", "train.py --help"]),
        (["--model.hiden", "1"], ["'--model.hiden'", "'--model.hidden'?"]),
        (["--model.parent", "1"], ["unknown key '--model.parent'"]),
        (["--hyper.extra.beta=1"], ["unknown key '--hyper.extra.beta'"]),
        (["--epochs=ten"], ["--epochs is 'ten'", "expected int"]),
        (["--epochs=2.5"], ["--epochs is '2.5'", "expected int"]),
        (["--epochs=1e4"], ["--epochs is '1e4'", "expected int", "write 10000"]),
        (["--epochs"], ["--epochs", "expected int"]),
        (["--epochs", "3", "4"], ["--epochs is '3 4'", "expected int"]),
        (["--model.hidden"], ["--model.hidden was given no value", "a tuple of int"]),
        (["--data.dir=\udcff"], ["--data.dir is", "no UTF-8"]),
        (["--hyper.l2=x"], ["--hyper.l2 is 'x'", "expected float or None"]),
        (["--augment.flip=maybe"], ["--augment.flip is 'maybe'", "expected bool"]),
        (["--schedule.kind=cosin"], ["--schedule.kind is 'cosin'", "'cosine'"]),
        (["--model.hidden", "1", "x"], ["--model.hidden is '1 x'", "a tuple of int"]),
        (["--schedule=linear"], ["--schedule is a group", "--schedule.kind"]),
        (["--plateau=3"], ["--plateau is a group", "--plateau.patience"]),
        (["stray", "--epochs=3"], ["'stray'", "--name=value"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_what_is_wrong_is_one_sentence(args, parts, capfd):
    with pytest.raises(RequestError) as raised:
        override(*args)
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")  # tyro would have drawn a box


def test_help_shows_each_field_with_meaning_and_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = overrides_help(EXPERIMENT, prog="train.py")
    for line in (
        "--epochs INT",
        "Passes over the training split",
        "--hyper.dropout_rate {None}|FLOAT",
        "Share of hidden units dropped, in [0, 1). (default: 0.1)",
        "A network of the user's.",
        "--model.hidden [INT [INT ...]]",
        "Widths of the hidden layers, 100 % of them. (default: 256)",
        "--hyper.extra.lambda FLOAT",
        "--schedule.kind {constant,step,",
        "--early_stopping.patience INT",
        "Off; --early_stopping or any of its fields switches it on.",
    ):
        assert line in text
    assert "second paragraph" not in text and "activation" not in text and "labels" not in text and "usage:" not in text


def test_help_reads_the_attributes_section():
    text = " ".join(overrides_help(Experiment(ResNet(), DataConfig()), prog="train.py").split())
    assert "residual blocks in each stage. (default: 1)" in text
    assert "conv is a strided 1x1 convolution with BatchNorm, pad takes every second pixel" in text


def test_misspelt_flag_of_the_script_is_recognised():
    with pytest.raises(RequestError, match="unknown key '--work_dir'; did you mean '--workdir'?"):
        parse_overrides(EXPERIMENT, ["--work_dir=x"], prog="train.py", own_flags=["--workdir", "--seed"])


def test_tyro_is_imported_late():
    code = "import jaxtrain.overrides, sys; sys.exit('tyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
