"""An experiment survives JSON, and whatever is wrong with a config file is one sentence with its place."""

import dataclasses
import json
import sys
import textwrap

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config as c
from jaxtrain.configfile import from_json, load_config, to_json
from jaxtrain.errors import RequestError
from jaxtrain.models import CNN, MLP, Linear, ResNet
from jaxtrain.types import Hyper, Model

HEADER = "from jaxtrain.config import *\nfrom jaxtrain.models import MLP, Linear\n"
GOOD = """
def get_config(variant=""):
    models = {"": MLP(), "linear": Linear()}
    return Experiment(models[variant], DataConfig(name="digits"), Config(epochs=3))
"""


class Net(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, image):
        return nn.Dense(self.width)(image)


def user_optimizer(hyper, schedule):
    return None


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config file and returns its name, relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()

    def write(text: str, name: str = "configs/mine.py") -> str:
        (tmp_path / name).write_text(HEADER + textwrap.dedent(text))
        return name

    return write


EXPERIMENTS = {
    "default": c.Experiment(MLP(), c.DataConfig()),
    "linear": c.Experiment(Linear(), c.DataConfig(name="mnist", dir="/x", fallback="digits", num_components=3)),
    "cnn": c.Experiment(CNN(), c.DataConfig(), c.Config(plateau=c.Plateau(0.1), optimizer=c.Sgd(nesterov=True))),
    "model": c.Experiment(Model(MLP()), c.DataConfig()),
    "resnet": c.Experiment(
        ResNet(),
        c.DataConfig(),
        c.Config(
            frozen=("a", "b/c"), early_stopping=c.EarlyStopping(), augment=c.Augment(4, True), ema_decay=0.1 + 0.2
        ),
        Hyper(learning_rate=1 / 3, momentum=None, extra={"type": 1e-300, "b": 3.0}),
    ),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_json_round_trip_is_exact(experiment):
    text = json.dumps(to_json(experiment))
    back = from_json(json.loads(text))
    assert back == experiment
    assert hash(back.config) == hash(experiment.config) and hash(back.model) == hash(experiment.model)
    assert json.dumps(to_json(back)) == text


@pytest.mark.parametrize("seed", range(20))
def test_json_round_trip_of_random_numbers(seed):
    random = np.random.default_rng(seed)
    names = [f.name for f in dataclasses.fields(Hyper) if f.name not in ("extra", "learning_rate", "beta2")]
    numbers = {name: float(random.standard_normal() * 10.0 ** random.integers(-300, 300)) for name in names}
    changes = {name: None if random.random() < 0.3 else number for name, number in numbers.items()}
    hyper = dataclasses.replace(Hyper(), **changes)
    experiment = dataclasses.replace(EXPERIMENTS["cnn"], hyper=hyper)
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment


def test_arrays_become_numbers():
    experiment = c.Experiment(MLP(), c.DataConfig(), hyper=Hyper(l1=jnp.float32(0.1), l2=np.float64(0.1)))
    assert from_json(to_json(experiment)).hyper == Hyper(l1=float(np.float32(0.1)), l2=0.1)


def test_what_is_the_users_own_is_named_and_must_be_passed():
    experiment = c.Experiment(Net(width=4), c.DataConfig(), c.Config(optimizer=user_optimizer))
    value = json.loads(json.dumps(to_json(experiment)))
    assert value["model"] == {"type": "user", "name": f"{__name__}:Net", "fields": {"width": 4}}
    assert value["config"]["optimizer"] == {"type": "user", "name": f"{__name__}:user_optimizer"}
    with pytest.raises(RequestError, match=r"model is .*Net.*pass it, as in load_run\(folder, model=Net\(\)\)"):
        from_json(value)
    with pytest.raises(RequestError, match=r"config.optimizer is .*load_run\(folder, optimizer=user_optimizer\)"):
        from_json(value, model=Net())
    assert from_json(value, model=Net(width=4), optimizer=user_optimizer) == experiment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["config"].update(epoch=3), "config.epoch: Config has no such field; did you mean 'epochs'?"),
        (lambda v: v["config"].pop("epochs"), "config.epochs is missing; expected every field of Config"),
        (lambda v: v["config"].update(epochs="ten"), "config.epochs is 'ten' (str); expected int"),
        (lambda v: v["config"].update(epochs=True), "config.epochs is True (bool); expected int"),
        (
            lambda v: v["config"]["schedule"].update(kind="cosin"),
            "config.schedule.kind is 'cosin' (str); expected one of",
        ),
        (
            lambda v: v["config"].update(schedule="cosine"),
            "config.schedule is 'cosine' (str); expected Schedule or a func",
        ),
        (lambda v: v["config"].update(frozen="abc"), "config.frozen is 'abc' (str); expected a tuple of str"),
        (lambda v: v["config"].update(frozen=[1]), "config.frozen is (1,) (tuple); expected a tuple of str"),
        (lambda v: v["hyper"].update(l2="x"), "hyper.l2 is 'x' (str); expected float or None"),
        (
            lambda v: v["hyper"].update(extra={"a": None}),
            "hyper.extra is {'a': None} (dict); expected a dict of str to",
        ),
        (lambda v: v.update(data=None), "data is None; expected DataConfig(...)"),
        (lambda v: v["model"].update(type="MPL"), "model: unknown type 'MPL'; did you mean 'MLP'?"),
        (lambda v: v.update(data={"type": "arrays", "name": "mine"}), "the run's data was given as arrays"),
        (lambda v: v.update(model="MLP"), "model is 'MLP'; expected a Linen module"),
        (lambda v: v.update(type="Config"), "no experiment"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_damaged_json_is_one_sentence(change, message):
    value = json.loads(json.dumps(to_json(EXPERIMENTS["default"])))
    change(value)
    with pytest.raises(RequestError) as raised:
        from_json(value)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_config_file_and_variant(write):
    name = write(GOOD)
    assert load_config(name) == c.Experiment(MLP(), c.DataConfig(name="digits"), c.Config(epochs=3))
    assert load_config(f"{name}:linear").model == Linear()
    assert load_config(f"{name}:") == load_config(name)


def test_run_is_repeated_from_its_json_without_executing_anything(write, tmp_path, monkeypatch):
    experiment = load_config(write(GOOD))
    (tmp_path / "config.json").write_text(json.dumps(to_json(experiment)))
    monkeypatch.setattr("builtins.exec", None)
    assert load_config("config.json") == experiment


def test_loading_leaves_no_trace(write, tmp_path):
    path = list(sys.path)
    load_config(write(GOOD))
    assert [file.name for file in tmp_path.rglob("*")] == ["configs", "mine.py"]
    assert sys.path == path


def test_config_file_may_define_a_network_and_postpone_annotations(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\n" + HEADER + "import dataclasses\nimport flax.linen as nn\n"
        "@dataclasses.dataclass(frozen=True)\nclass Block:\n    width: int = 3\n"
        "class Net(nn.Module):\n    block: Block = Block()\n"
        "def get_config():\n    return Experiment(Net(), DataConfig())\n"
    )
    experiment = load_config(str(path))
    assert to_json(experiment)["model"]["name"] == "jaxtrain_config_own:Net"
    from jaxtrain.overrides import parse_overrides

    assert parse_overrides(experiment, ["--model.block.width=5"], prog="x").model.block.width == 5


@pytest.mark.parametrize(
    ("text", "variant", "message"),
    [
        ("x = 1", "", "configs/mine.py defines no get_config; expected def get_config"),
        ("x = (", "", "configs/mine.py:3: the file raised SyntaxError: '(' was never closed"),
        ("import nonesuch", "", "configs/mine.py:3: the file raised ModuleNotFoundError: No module named 'nonesuch'"),
        ("raise SystemExit(3)", "", "configs/mine.py:3: the file raised SystemExit: 3"),
        ("def get_config():\n    return 1 / 0", "", "configs/mine.py:4: get_config raised ZeroDivisionError: division"),
        (
            "def get_config():\n    return Experiment(MLP(), DataConfig(), Config(epoch=3))",
            "",
            "configs/mine.py:4: get_config raised TypeError: Config.__init__() got an unexpected keyword",
        ),
        (
            "def f():\n    return 1 / 0\ndef get_config():\n    return f()",
            "",
            "configs/mine.py:4: get_config raised Zero",
        ),
        ("def get_config():\n    return Config()", "", "get_config returned Config("),
        ("get_config = dict", "", "configs/mine.py: get_config raised ValueError: no signature"),
        ("def get_config():\n    raise KeyError", "", "configs/mine.py:4: get_config raised KeyError"),
        ("def get_config():\n    return Experiment(MLP(), DataConfig(), seed=1.5)", "", "seed is 1.5; expected int"),
        ("def get_config():\n    return Experiment(MLP(), DataConfig(), seeds=3)", "", "seeds is 3; expected a tuple"),
        (
            "def get_config():\n    return Experiment(MLP(), DataConfig(), parallel='no')",
            "",
            "parallel is 'no'; expected",
        ),
        ("def get_config():\n    pass", "", "get_config returned None; expected an Experiment"),
        ("def get_config():\n    return None", "cnn", "has no variants: its get_config takes no argument, but 'cnn'"),
        (GOOD, "cn", "configs/mine.py:6: get_config('cn') raised KeyError: 'cn'"),
        (
            "def get_config(variant):\n    raise ValueError(f'unknown {variant};\\n try cnn')",
            "cn",
            "configs/mine.py:4: get_config('cn') raised ValueError: unknown cn; try cnn",
        ),
        (
            "def get_config():\n    return Experiment(MLP, DataConfig())",
            "",
            "model is the class MLP; expected an instance",
        ),
        ("def get_config():\n    return Experiment(None, DataConfig())", "", "model is None; expected a Linen module"),
        (
            "def get_config():\n    return Experiment(MLP(), DataConfig(), Config(epochs=2.5))",
            "",
            "config.epochs is 2.5 (float); expected int",
        ),
        (
            "def get_config():\n    return Experiment(MLP(), DataConfig(name='mnst'))",
            "",
            "data.name is 'mnst' (str); expected one of 'digits', 'mnist'",
        ),
    ],
    ids=lambda value: value.strip()[:30].replace("\n", " "),
)
def test_what_is_wrong_with_a_config_file_is_one_sentence(text, variant, message, write):
    name = write(text)
    with pytest.raises(RequestError) as raised:
        load_config(f"{name}:{variant}" if variant else name)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("configs/mime.py", "config file 'configs/mime.py' is missing; did you mean 'configs/mine.py'?"),
        ("configs/mime.py:cnn", "config file 'configs/mime.py' is missing; did you mean 'configs/mine.py'?"),
        ("configs/mine", "config file 'configs/mine' is missing; did you mean 'configs/mine.py'?"),
        ("config/mine.py", "is missing; there is no folder 'config'"),
        ("configs", "config file 'configs' is a folder"),
        ("run", "config file 'run' is a folder; name the config.json in it"),
        ("configs/mine.txt", "is neither a .py file nor the config.json of a run"),
        ("run/config.json", "run/config.json: this JSON is no experiment"),
        ("broken.json", "config file 'broken.json' is no JSON"),
    ],
)
def test_missing_file_names_the_nearest(reference, message, write, tmp_path):
    write(GOOD)
    write("", "configs/mine.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(RequestError) as raised:
        load_config(reference)
    assert message in str(raised.value) and "\n" not in str(raised.value)
