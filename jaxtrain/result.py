"""A finished run in the hand: predictions, scores, parameters; written to its folder and read back.

Imports the programs, checkpoints and data. The fact that surprises: a `Run` needs no data set. The preprocessing
fitted on the training split is kept with the weights, so `predict` takes images as they come from a file.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.augment import check_tta
from jaxtrain.checkpoint import Store
from jaxtrain.config import DataConfig, Tta
from jaxtrain.configfile import encode, from_json
from jaxtrain.data import DataInfo, Preprocess, normalise
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.folder import read_config, read_history, read_summary
from jaxtrain.leaves import Mismatch, check_fit, kind_of, named_leaves, spec
from jaxtrain.metrics import compute, from_examples
from jaxtrain.program import Program, compile_program
from jaxtrain.step import Setting, as_model, init_state
from jaxtrain.tasks import default_task
from jaxtrain.types import Batch, Hyper, Metrics, PyTree, Task, TrainState


@dataclass(frozen=True, eq=False)
class Run:
    """What `fit` and `load_run` return. `params` and `batch_stats` are the weights that were scored."""

    setting: Setting
    hyper: Hyper
    seed: int
    params: PyTree
    batch_stats: PyTree
    preprocess: Preprocess
    info: DataInfo
    summary: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)  # one row per evaluation
    folder: Path | None = None
    state: TrainState | None = None  # the last state; None after load_run
    kept: PyTree = None  # params and batch_stats of the snapshots, [S, ...]

    @property
    def train(self) -> SimpleNamespace:
        """Scores of a fixed part of the training split, in evaluation mode: `run.train.loss`."""
        return SimpleNamespace(**self.summary.get("train", {}))

    @property
    def val(self) -> SimpleNamespace:
        """Scores of the validation split: `run.val.accuracy`."""
        return SimpleNamespace(**self.summary.get("val", {}))

    @property
    def test(self) -> SimpleNamespace:
        """Scores of the test split, if the data has one and the run was not stopped."""
        return SimpleNamespace(**self.summary.get("test", {}))

    def predict(self, images: Any) -> Any:
        """The task's answer for images as they were given to training, before any normalisation.

        Args:
          images: uint8 or float [B, H, W], [B, H, W, C] or [B, D], of the shape and range of the training images.

        Returns:
          Of NumPy arrays; in classification a tuple with `probability` f32[B, K] and `label` i32[B].

        Raises:
          RequestError: if the images have another shape than those of training.
        """
        outputs = [self._outputs(part) for part in self._parts(self.checked(images))]
        return jax.device_get(self.setting.task.predict(jnp.concatenate(outputs)))

    def evaluate(self, images: Any, labels: Any) -> SimpleNamespace:
        """The task's metrics on other data, each example counted once.

        Args:
          images: as for `predict`.
          labels: int [B] class indices, or float [B] or [B, T] targets.

        Raises:
          RequestError: for another number of labels than images, or labels outside the classes.
        """
        checked = self.checked(images)
        labels = self.checked_labels(labels, len(checked))
        parts = [self._scores(*part) for part in zip(self._parts(checked), self._parts(labels), strict=True)]
        return SimpleNamespace(**compute(jax.device_get(functools.reduce(operator.add, parts))))

    def outputs(self, images: Any) -> np.ndarray:
        """The network's outputs, f32[B, K] or f32[B, T], for images as for `predict`."""
        return np.concatenate([jax.device_get(self._outputs(part)) for part in self._parts(self.checked(images))])

    def with_tta(self, tta: Tta) -> "Run":
        """The same weights, whose `predict`, `outputs` and `evaluate` take the mean over these views; see `Config.tta`.

        What stands in `summary` and `history` stays as the run was scored.

        Raises:
          RequestError: for an unknown name, or a network that takes no images [H, W, C].
        """
        check_tta(tta, self.setting.image_shape)
        config = dataclasses.replace(self.setting.config, tta=tta)
        return dataclasses.replace(self, setting=dataclasses.replace(self.setting, config=config))

    @property
    def snapshots(self) -> tuple["Run", ...]:
        """The network at the end of every `config.snapshot_every_epochs` epochs, the oldest first; empty without."""
        count = 0 if self.kept is None else len(jax.tree.leaves(self.kept)[0])
        taken = min(count, self.summary["epochs"] // (self.setting.config.snapshot_every_epochs or 1))
        return tuple(self._snapshot(index) for index in range(taken))

    @property
    def program(self) -> Program:
        """The compiled functions, shared by all runs of this setting."""
        return compile_program(self.setting)

    def _snapshot(self, index: int) -> "Run":
        weights = jax.tree.map(lambda leaf: leaf[index], self.kept)
        return dataclasses.replace(self, **weights, kept=None, state=None)

    def checked(self, images: Any) -> np.ndarray:
        """Images as they can be predicted on, or RequestError."""
        images, shape = np.asarray(images), tuple(self.info.stored_shape)
        if images.shape[1:] != shape and (*images.shape[1:], 1) == shape:
            images = images[..., None]
        if images.shape[1:] != shape:
            raise RequestError(
                f"images have shape {list(images.shape)}; this network was trained on [B, {', '.join(map(str, shape))}]"
                " (a single image needs a first axis of length 1)"
            )
        if images.dtype != np.uint8 and not np.isfinite(images).all():
            raise RequestError("images hold NaN or infinite values; remove or replace them")
        if (images.dtype == np.uint8) != (self.info.stored_dtype == "uint8"):
            raise RequestError(
                f"images are {images.dtype}; this network was trained on {self.info.stored_dtype} images"
            )
        return images

    def checked_labels(self, labels: Any, count: int) -> np.ndarray:
        """Labels for `count` images, i32[B] or f32[B, T], or RequestError."""
        labels = np.asarray(labels)
        if self.info.num_classes is None:
            labels = labels.astype(np.float32).reshape(len(labels), -1)
        if len(labels) != count or (self.info.num_classes is not None and labels.ndim != 1):
            raise RequestError(f"labels have shape {list(labels.shape)} for {count} images; give one label an image")
        if self.info.num_classes is not None and not ((labels >= 0) & (labels < self.info.num_classes)).all():
            raise RequestError(
                f"labels must lie in 0..{self.info.num_classes - 1}; found {labels.min()}..{labels.max()}"
            )
        return labels if self.info.num_classes is None else labels.astype(np.int32)

    def _parts(self, images: np.ndarray) -> list[np.ndarray]:
        size = self.setting.config.eval_batch_size
        return [images[start : start + size] for start in range(0, max(len(images), 1), size)]

    def _scores(self, images: np.ndarray, labels: np.ndarray) -> Metrics:
        image, weight = normalise(self.preprocess, images), jnp.ones(len(images), jnp.float32)
        values = self.setting.task.metrics(self._outputs(images), Batch(image, jnp.asarray(labels), weight))
        return from_examples(values, weight)

    def _outputs(self, images: np.ndarray) -> jax.Array:
        """Padded to a power of two, so that images given one by one and in any number share few programs."""
        padded = np.concatenate(
            [images, np.zeros((_power_of_two(len(images)) - len(images), *images.shape[1:]), images.dtype)]
        )
        image = normalise(self.preprocess, jnp.asarray(padded))
        return self.program.predict(self.params, self.batch_stats, self.hyper, image)[: len(images)]


def write_weights(run: Run, folder: Path) -> None:
    """The scored weights with all that `predict` needs, in the folder `weights`.

    Raises:
      WorldError: if they could not be written.
    """
    kept = {"params": run.params, "batch_stats": run.batch_stats, "preprocess": _fields(run.preprocess)}
    kept |= {} if run.kept is None else {"snapshots": run.kept}
    meta = {
        "seed": run.seed,
        "info": dataclasses.asdict(run.info),
        "image_shape": list(run.setting.image_shape),
        "num_train": run.setting.num_train,
        "task": repr(run.setting.task),
        "digest": run.summary["digest"],
    }
    with Store(folder / "weights", keep=1) as store:
        store.save(run.summary["steps"], {"weights": kept}, meta)
    if store.errors:
        raise WorldError(f"the run is done, but its weights could not be written: {store.errors[-1]}")


def read_weights(folder: str | Path) -> tuple[dict[str, PyTree], dict[str, Any]]:
    """The scored weights of a finished run, {"params", "batch_stats", "preprocess"} as NumPy, and what they are.

    Raises:
      RequestError: the folder holds no finished run.
      WorldError: the weights are damaged.
    """
    folder = Path(folder)
    if not (folder / "summary.json").is_file():
        state = "an unfinished run; finish it with --resume" if (folder / "config.json").is_file() else "no run"
        raise RequestError(f"{folder} holds {state}; expected the folder of a finished run")
    with Store(folder / "weights", read_only=True) as store:
        kept, meta = store.restore_part("weights")["weights"], store.meta()
    return {"params": {}, "batch_stats": {}, **kept}, meta


def load_one(
    folder: str | Path, *, model: Any = None, task: Task | None = None, optimizer: Any = None, schedule: Any = None
) -> Run:
    """A finished run of one member from its folder; see `runs.load_run`, which takes any."""
    folder = Path(folder)
    kept, meta = read_weights(folder)
    stored = read_config(folder) or {}
    if stored.get("data", {}).get("type") == "arrays":  # given as arrays; nothing here needs them
        stored = {**stored, "data": encode(DataConfig())}
    try:
        experiment = from_json(stored, model=model, optimizer=optimizer, schedule=schedule)
    except RequestError as error:
        raise RequestError(f"{folder}/config.json: {error}") from None
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in meta["info"].items()}
    info = DataInfo(**fields)
    task = _task(meta["task"], info, task)
    setting = Setting(
        as_model(experiment.model), task, experiment.config, tuple(meta["image_shape"]), meta["num_train"]
    )
    _check_weights(folder, setting, experiment.hyper, kept)
    summary = read_summary(folder)
    if summary is None:
        raise WorldError(f"{folder}/summary.json has vanished since it was found; restore it")
    return Run(
        setting=setting,
        hyper=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), experiment.hyper),
        seed=meta["seed"],
        params=jax.tree.map(jnp.asarray, kept["params"]),
        batch_stats=jax.tree.map(jnp.asarray, kept["batch_stats"]),
        preprocess=Preprocess(**{name: jnp.asarray(array) for name, array in kept["preprocess"].items()}),
        info=info,
        summary=summary,
        history=read_history(folder, summary["steps"]),
        folder=folder,
        kept=_snapshots(kept.get("snapshots")),
    )


def _check_weights(folder: Path, setting: Setting, hyper: Hyper, kept: Mapping[str, PyTree]) -> None:
    """Raise Mismatch if the network that the config describes (edited since?), or that was given, has other weights."""
    state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))
    for name in ("params", "batch_stats"):
        held = {path: kind_of(leaf) for path, leaf in named_leaves({name: kept[name]}).items()}
        wanted = {path: spec(leaf) for path, leaf in named_leaves({name: getattr(state, name)}).items()}
        try:
            check_fit(held, wanted)
        except Mismatch as error:
            raise Mismatch(f"{folder}/weights are not of the network of its config.json: {error}") from None


def _snapshots(stored: PyTree) -> PyTree:
    """An empty `batch_stats` has no leaf, so no checkpoint holds it."""
    return None if stored is None else jax.tree.map(jnp.asarray, {"batch_stats": {}, **stored})


def _task(trained: str, info: DataInfo, given: Task | None) -> Task:
    if given is not None:
        return given
    task = default_task(info)
    if repr(task) != trained:
        raise RequestError(f"the run was trained on a task of your own; pass it: load_run(folder, task={trained})")
    return task


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _fields(preprocess: Preprocess) -> dict[str, Any]:
    fields = {f.name: getattr(preprocess, f.name) for f in dataclasses.fields(preprocess)}
    return {name: array for name, array in fields.items() if array is not None}
