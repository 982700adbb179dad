"""Tables of what nobody should ask for: config files, flags, arrays, pickles, folders; each with a part of its answer.

Imports nothing of jaxtrain. The fact that surprises: most rows were once accepted, or answered by a traceback; a row
that is found later goes to the end of its table, for a case is known by its number.
"""

import builtins
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HEADER = """
import dataclasses
import flax.linen as nn
import numpy as np
import jaxtrain as jt
from jaxtrain.config import *
from jaxtrain.models import *
from jaxtrain.types import Hyper

DIGITS = DataConfig("digits")

def own(call):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, image):
            return call(self, image)
    return Net()

"""


def _returns(what: str) -> str:
    return f"def get_config():\n    return {what}"


CONFIG_FILES: dict[str, tuple[str, str]] = {
    "raises": ("def get_config():\n    raise ValueError('no\\ngood')", "get_config raised ValueError: no good"),
    "raises at once": ("1 / 0", "the file raised ZeroDivisionError"),
    "syntax": ("def get_config(:", "SyntaxError"),
    "null bytes": ("x = '\0'", "SyntaxError"),
    "leaves": ("import sys; sys.exit(3)", "raised SystemExit: 3"),
    "imports what is not there": ("import no_such_module_at_all", "No module named"),
    "endless recursion": (_returns("get_config()"), "RecursionError"),
    "no get_config": ("x = 1", "defines no get_config"),
    "get_config is a number": ("get_config = 3", "defines no get_config"),
    "get_config is a type": ("get_config = dict", "get_config"),
    "get_config wants two": ("def get_config(a, b):\n    pass", "TypeError"),
    "returns None": (_returns("None"), "returned None; expected an Experiment"),
    "returns a class": (_returns("Experiment"), "expected an Experiment"),
    "returns a search": (_returns("jt.Search(Experiment(MLP(), DIGITS), {})"), "search"),
    "unknown field": (_returns("Experiment(MLP(), DataConfig(nme='digits'))"), "unexpected keyword argument 'nme'"),
    "model is a class": (_returns("Experiment(MLP, DIGITS)"), "expected an instance, MLP()"),
    "model is None": (_returns("Experiment(None, DIGITS)"), "model is None"),
    "data is a dict": (_returns("Experiment(MLP(), {'name': 'digits'})"), "expected DataConfig"),
    "config is None": (_returns("Experiment(MLP(), DIGITS, None)"), "expected Config"),
    "hyper is None": (_returns("Experiment(MLP(), DIGITS, Config(), None)"), "expected Hyper"),
    "rate is text": (_returns("Experiment(MLP(), DIGITS, hyper=Hyper('a'))"), "expected float"),
    "rates are many": (_returns("Experiment(MLP(), DIGITS, hyper=Hyper(np.ones(3)))"), "must be one number"),
    "rate is NaN": (_returns("Experiment(MLP(), DIGITS, hyper=Hyper(float('nan')))"), "must be a finite number"),
    "extra is a list": (_returns("Experiment(MLP(), DIGITS, hyper=Hyper(extra=[1]))"), "hyper.extra"),
    "extra has a number as name": (_returns("Experiment(MLP(), DIGITS, hyper=Hyper(extra={1: 2}))"), "hyper.extra"),
    "extra is text": (_returns("Experiment(MLP(), DIGITS, hyper=Hyper(extra={'a': 'b'}))"), "hyper.extra"),
    "seed is text": (_returns("Experiment(MLP(), DIGITS, seed='a')"), "seed is 'a'; expected int"),
    "seed is a fraction": (_returns("Experiment(MLP(), DIGITS, seed=1.5)"), "seed is 1.5; expected int"),
    "seeds are a number": (_returns("Experiment(MLP(), DIGITS, seeds=3)"), "seeds is 3; expected a tuple of int"),
    "seeds are fractions": (_returns("Experiment(MLP(), DIGITS, seeds=(1.5, 2))"), "seeds is (1.5, 2)"),
    "seeds are none": (_returns("Experiment(MLP(), DIGITS, seeds=())"), "seeds is empty"),
    "parallel is unknown": (_returns("Experiment(MLP(), DIGITS, parallel='quick')"), "parallel is 'quick'"),
    "hidden is text": (_returns("Experiment(MLP(hidden='ab'), DIGITS)"), "model.hidden is 'ab'"),
    "hidden is negative": (_returns("Experiment(MLP(hidden=(-3,)), DIGITS)"), "nonnegative"),
    "other number of classes": (_returns("Experiment(MLP(num_outputs=7), DIGITS)"), "set its number of outputs to 10"),
    "network raises": (_returns("Experiment(own(lambda self, x: {}[1]), DIGITS)"), "the network Net raised KeyError"),
    "network's attribute": (_returns("Experiment(own(lambda self, x: x.nosuch), DIGITS)"), "bad.py:"),
    "network returns None": (_returns("Experiment(own(lambda self, x: None), DIGITS)"), "outputs of shape NoneType"),
    "network returns two": (_returns("Experiment(own(lambda self, x: (x, x)), DIGITS)"), "outputs of shape tuple"),
    "network has lists": (_returns("Experiment(MLP(hidden=[8]), DIGITS)"), "expected a tuple of int"),
    "optimizer is a name": (_returns("Experiment(MLP(), DIGITS, Config(optimizer='adam'))"), "config.optimizer"),
    "optimizer is none": (
        _returns("Experiment(MLP(), DIGITS, Config(optimizer=lambda hyper, schedule: 3))"),
        "config.optimizer <lambda> raised AttributeError",
    ),
    "optimizer wants nothing": (
        _returns("Experiment(MLP(), DIGITS, Config(optimizer=lambda: 3))"),
        "config.optimizer <lambda> raised TypeError",
    ),
    "schedule is text": (
        _returns("Experiment(MLP(), DIGITS, Config(schedule=lambda step: 'a'))"),
        "config.schedule <lambda> raised ValueError",
    ),
    "schedule raises": (
        _returns("Experiment(MLP(), DIGITS, Config(schedule=lambda step: step.nosuch))"),
        "config.schedule <lambda> raised AttributeError",
    ),
    "schedule gives many": (
        _returns("Experiment(MLP(), DIGITS, Config(schedule=lambda step: np.ones(3)))"),
        "must give one number",
    ),
    "augment is a class": (_returns("Experiment(MLP(), DIGITS, Config(augment=Augment))"), "expected Augment"),
    "frozen is a list": (_returns("Experiment(MLP(), DIGITS, Config(frozen=['a']))"), "expected a tuple of str"),
}
"""A file's text below the header, and a part of the answer."""

USAGE, WORLD = 2, 1
LONG = "x" * 300
"""No file system takes such a name."""

FLAGS: dict[str, tuple[int, str]] = {
    "--hyper.learning_rat=1": (USAGE, "did you mean '--hyper.learning_rate'?"),
    "--epoch=3": (USAGE, "did you mean '--epochs'?"),
    "--wrokdir=x": (USAGE, "did you mean '--workdir'?"),
    "--epochs=ten": (USAGE, "--epochs is 'ten'; expected int"),
    "--epochs=2.5": (USAGE, "expected int"),
    "--epochs=1e3": (USAGE, "write 1000"),
    "--epochs": (USAGE, "was given no value"),
    "--epochs=": (USAGE, "expected int"),
    "--epochs 1 2": (USAGE, "expected int"),
    "--epochs=2 --epochs=0": (USAGE, "config.epochs is 0"),
    "--epochs=-1": (USAGE, "config.epochs is -1"),
    "--epochs=99999999999999999999": (USAGE, "config.epochs"),
    "--epochs=2000000000": (USAGE, "steps in all"),
    "--hyper.learning_rate=nan": (USAGE, "must be a finite number"),
    "--hyper.learning_rate=inf": (USAGE, "must be a finite number"),
    "--hyper.learning_rate=1e39": (USAGE, "must be a finite number"),
    "--hyper.learning_rate=-1": (USAGE, "must not be negative"),
    "--hyper.learning_rate=None": (USAGE, "expected float"),
    "--hyper.dropout_rate=1": (USAGE, "must lie in [0, 1)"),
    "--hyper.extra=1": (USAGE, "group of fields; it has none here"),
    "--hyper=1": (USAGE, "group of fields; give one of them"),
    "--batch_size=100000": (USAGE, "1221 examples"),
    "--batch_size=1": (USAGE, "BatchNorm"),
    "--eval_batch_size=999999999999": (USAGE, "config.eval_batch_size"),
    "--num_micro_batches=7": (USAGE, "no multiple"),
    "--max_chunk_seconds=inf": (USAGE, "config.max_chunk_seconds is inf"),
    "--schedule.kind=cosin": (USAGE, "expected one of"),
    "--schedule.period=inf": (USAGE, "config.schedule.period is inf"),
    "--schedule.stretch=inf --schedule.kind=cosine_restarts": (USAGE, "config.schedule.stretch is inf"),
    "--schedule.warmup=99": (USAGE, "longer than the whole run"),
    "--optimizer.epsilon=nan": (USAGE, "config.optimizer.epsilon is nan"),
    "--optimizer.epsilon=-1": (USAGE, "config.optimizer.epsilon is -1"),
    "--optimizer=adam": (USAGE, "group of fields"),
    "--ema_decay=nan": (USAGE, "config.ema_decay is nan"),
    "--watch=-acuracy": (USAGE, "config.watch is '-acuracy'"),
    "--final=ema": (USAGE, "needs config.ema_decay"),
    "--frozen=Nope": (USAGE, "'Nope'"),
    "--model.hidden": (USAGE, "was given no value"),
    "--model.hidden 8 a": (USAGE, "expected a tuple of int"),
    "--plateau=3": (USAGE, "group of fields"),
    "--augment.crop=99": (USAGE, "at most 7"),
    "--seed=-1": (USAGE, "seed is -1; give a number from 0 to 4294967295"),
    "--seed=4294967296": (USAGE, "give a number from 0 to 4294967295"),
    "--seeds=-1,2": (USAGE, "seed is -1"),
    "--seeds=1,1": (USAGE, "given twice"),
    "--seeds=": (USAGE, "seeds is empty"),
    "--members=0": (USAGE, "give at least 1"),
    "--members=two": (USAGE, "--members"),
    "--width=0": (USAGE, "width"),
    "--profile-steps=5:3": (USAGE, "profile_steps"),
    "--profile-steps=3": (USAGE, "give two steps"),
    "--data.val_share=nan": (USAGE, "val_share is nan"),
    "--data.split_seed=-1": (USAGE, "split_seed is -1"),
    "--data.preprocess=zca": (USAGE, "expected one of"),
    "--data.num_components=5": (USAGE, "num_components is 5"),
    "--data.name=npz": (USAGE, "data.path is not given"),
    "--data.name=npz --data.path=": (USAGE, "data.path is not given"),
    "--data.name=npz --data.path=~nobody-of-this-name/x": (USAGE, "no such user"),
    "--data.name=npz --data.path=missing.npz": (WORLD, "there is no file missing.npz"),
    "--data.name=npz --data.path=.": (WORLD, "cannot be read"),
    "--data.name=folder --data.path=missing": (WORLD, "there is no folder missing"),
    f"--data.name=folder --data.path={LONG}": (WORLD, "there is no folder"),
    "--data.name=folder --data.path=. --data.image_size=1000000": (USAGE, "data.image_size"),
    "--data.name=cifar10 --data.download=False": (WORLD, "cifar-10-binary.tar.gz"),
    "--data.name=mnist --data.download=False": (WORLD, "train-images-idx3-ubyte.gz"),
    f"--data.name=mnist --data.dir={LONG} --data.download=False": (WORLD, "no such folder"),
    f"--data.name=cifar10 --data.dir={LONG} --data.download=False": (WORLD, "no such folder"),
    "--data.name=mnist --data.dir=~nobody-of-this-name --data.download=False": (USAGE, "no such user"),
    "--data.path=\udcff": (USAGE, "no UTF-8"),
    "--workdir=": (USAGE, "--workdir"),
    "--workdir=file": (WORLD, "is a file"),
    "--workdir=file/below": (WORLD, "is a file"),
    "--workdir=/proc/nothing": (WORLD, "cannot write in"),
    "--init-from=missing": (USAGE, "holds no run"),
    "--init-from=": (USAGE, "--init-from"),
    "--init-from=file": (USAGE, "holds no run"),
    "--resume": (USAGE, "holds no run to resume"),
    "stray": (USAGE, "stray"),
    "--": (USAGE, "unknown key"),
    "---epochs=1": (USAGE, "did you mean '--epochs'?"),
    "--hyper..learning_rate=1": (USAGE, "did you mean"),
}
"""Flags after those of a right command, the exit status, and a part of the answer."""

VALUES = (
    *("nan", "inf", "-inf", "1e400", "1e39", "-1", "0", "1", "2.5", "1e3", "0x10", "None", "True", "", " ", "--", "-x"),
    *("ten", "[]", "()", "(1, 2)", "1,2", "é", "\0", "%s", "{}", "$HOME", "../../x", "\udcff", "99999999999999999999"),
    *("__import__('os').system('true')", "'", '"', "a b", "1_0", "cosine", "9" * 400),
)

JSON_VALUES = (
    *(None, True, False, 0, -1, 1, 2.5, 1e400, float("nan"), 10**30, "", "x", "Config", "os:system", [], [1], ["a"]),
    *([[]], {}, {"a": 1}, {"type": "MLP"}, {"type": "Model"}, {"type": 3}, {"type": None}, {"type": "arrays"}),
    *({"type": "user", "name": "os:system"}, {"type": "Experiment"}),
)

NO_JSON = (b"", b"{", b"[]", b"null", b'"x"', b"3", b"{}", b"\xff\xfe{}", b"[" * 100_000, b"9" * 5000, b"NaN", b"\0")


def arrays(row: int) -> dict[str, Any]:
    """Arguments of `from_arrays`, wrong in one thing."""
    image, label = np.arange(40 * 36, dtype=np.uint8).reshape(40, 6, 6), np.arange(40) % 4
    good: dict[str, Any] = {"images": image, "labels": label}
    wrong: list[dict[str, Any]] = [
        {"images": None},
        {"images": "abc"},
        {"images": [[1], [1, 2]]},
        {"images": {}},
        {"images": image.astype(object)},
        {"images": image.astype(np.int64)},
        {"images": image > 3},
        {"images": image + 0j},
        {"images": np.uint8(3)},
        {"images": image[:, 0, 0]},
        {"images": image[:0], "labels": label[:0]},
        {"images": image[:, :0]},
        {"images": np.where(image == 7, np.nan, image)},
        {"images": np.full((40, 3), np.inf, np.float16)},
        {"images": np.full((40, 3), 1e300)},
        {"labels": None},
        {"labels": "abc"},
        {"labels": [[1], [1, 2]]},
        {"labels": label[:3]},
        {"labels": np.r_[label, label]},
        {"labels": label[:, None]},
        {"labels": np.eye(4, dtype=int)[label]},
        {"labels": label.astype(object)},
        {"labels": label.astype("m8[s]")},
        {"labels": label > 1},
        {"labels": label - 1},
        {"labels": np.full(40, -(2**63))},
        {"labels": np.full(40, 2**64 - 1, np.uint64)},
        {"labels": label + 10**6},
        {"labels": label * 0},
        {"labels": np.r_[label[:-1], 4]},
        {"labels": np.where(label == 2, np.nan, label)},
        {"labels": np.where(label == 2, np.inf, label)},
        {"labels": label * 1e300},
        {"labels": np.zeros((40, 0))},
        {"labels": np.zeros((40, 2, 2))},
        {"images": image[:1], "labels": label[:1]},
        *({"val_share": value} for value in ("a", None, 0, 1, -0.1, np.nan, 1j, np.array([0.1, 0.2]), True)),
        *({"split_seed": value} for value in ("a", None, -1, 1.5, [1, 2])),
        *({"num_classes": value} for value in ("3", 2.5, -1, 0, 1, 3, True)),
        *({"class_names": value} for value in ("abcd", [], ["a"], 3, {"a": 1}, [["a"]] * 4, np.array("a"))),
        {"class_names": ["\ud800", "a", "b", "c"]},
        *({"preprocess": value} for value in (None, "zca", ["pca"])),
        *({"preprocess": "pca", "num_components": value} for value in ("a", 2.5, 0, -1, 37, True)),
        {"num_components": 3},
        *({"test": value} for value in (3, "ab", (), (image,), (image, label, label), (None, None))),
        {"test": (image, label[:3])},
        {"test": (image[:, :3], label)},
        {"test": (image / 255, label)},
        {"test": (image, label / 2)},
        {"test": (image, label + 4), "num_classes": 4},
        {"labels": label / 2, "num_classes": 4},
    ]
    return {**good, **wrong[row % len(wrong)]}


class _Call:
    """Unpickled by the standard library it calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def hostile_pickles(canary: Path) -> list[bytes]:
    """Pickles which make `canary`, or take all the time or memory there is, where they are loaded as pickles."""
    path, touch = str(canary), f"touch {canary}"
    deep = b"\x80\x02K\x01" + b"\x85" * 100_000
    pairs = b"\x80\x02U\x01xq\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    return [
        *(pickle.dumps(_Call(os.system, touch), protocol) for protocol in range(2, 6)),
        pickle.dumps(_Call(builtins.eval, f"open({path!r}, 'w')"), 2),
        pickle.dumps(_Call(builtins.exec, f"open({path!r}, 'w')"), 4),
        pickle.dumps(_Call(subprocess.Popen, ["touch", path]), 2),
        pickle.dumps(_Call(os.mkdir, path), 2),
        pickle.dumps(_Call(np.fromfile, path), 2),
        pickle.dumps({b"data": _Call(os.mkdir, path), b"labels": [1]}, 2),
        pickle.dumps({b"data": np.array([_Call(os.mkdir, path)], object), b"labels": [1]}, 2),
        b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
        b"\x80\x02(S'" + touch.encode() + b"'\nios\nsystem\n.",
        b"\x80\x02(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R.",
        b"\x80\x02cos\nsystem\nU\x01x\x85\x81.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02P1\n.",
        b"\x80\x02U\x011Q.",
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x80\x02T\xff\xff\xff\x7f.",
        b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02I" + b"9" * 6000 + b"\n.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02" + b"(" * 10_000 + b".",
        deep + b".",
        deep + b"cnumpy\ndtype\nR.",
        b"\x80\x02cnumpy\ndtype\nK\x01" + b"\x85" * 100_000 + b"R.",
        pairs + b".",
        pairs + b"cnumpy\ndtype\nh\x3c\x85R.",
        pairs + b"}h\x3cK\x01s.",
        pairs + b"}(U\x04dataK\x01U\x06labelsh\x3cu.",
        pickle.dumps(np.zeros(3, np.uint8), 3),
        b"\x80\x02" + b"]" * (60 << 20) + b".",
        b"\x80\x02.",
        b"\x80",
    ]


NAMES = (
    *("../../x", "/tmp/x", "a/b", "", ".", "..", ".x", "x" * 101, "a b", "é"),
    *("a\nb", "a\n", "-x", "a\0b", "~", "$HOME"),
)
"""Names that a run cannot have."""

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></table><iframe src=//x>",
    "<!--",
    "&lt;script&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "[x](javascript:alert(1))",
    "a|b`c`<b>d</b>",
    "\x1b[31mred\x07",
    "\u202eright to left",
    "$\\frac{",
    "a\nb\r\nc",
    "\0",
)
"""Texts that somebody may give to a class, a file or a note."""
