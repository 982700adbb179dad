"""What TensorBoard shows of a run besides its curves: its graphs, its hyper-parameters, its config and its result.

Imports the log, graphs and the step. The fact that surprises: a graph that cannot be drawn is a warning. It is made of
JAX's jaxpr, which is no public interface, and no picture is worth a run.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.data import Data
from jaxtrain.events import EventWriter
from jaxtrain.graph import GraphError, model_graph, root_of, step_graph
from jaxtrain.hparams import experiment, session_end, session_start
from jaxtrain.log import Log
from jaxtrain.step import Setting, init_state, train_step
from jaxtrain.types import Batch, Hyper

STEP_GRAPH = "graph_train_step"
"""The GRAPHS tab has one graph a folder: the network's lies in the run's, the train step's in this one below it."""

METRICS = ("val/accuracy", "val/loss", "test/accuracy", "test/loss", "train/accuracy", "train/loss")


def log_config(log: Log, described: Mapping[str, Any]) -> None:
    """The resolved config, for the TEXT tab."""
    log.text("config", f"```json\n{json.dumps(described, indent=2)}\n```")


def log_graphs(log: Log, setting: Setting, data: Data, hyper: Hyper) -> None:
    """The network and the train step, for the GRAPHS tab; from shapes alone."""
    if log.folder is None:
        return
    state = jax.eval_shape(functools.partial(init_state, setting), jax.random.key(0), hyper)
    rows = (setting.config.batch_size,)
    shapes: Any = [
        jax.ShapeDtypeStruct(rows + setting.image_shape, jnp.float32),
        jax.ShapeDtypeStruct(rows + data.label.shape[1:], data.label.dtype),
        jax.ShapeDtypeStruct(rows, jnp.float32),
        jax.ShapeDtypeStruct(rows, jnp.int32),
    ]
    batch = Batch(*shapes)
    try:
        log.graph(model_graph(setting.model, state.params, state.batch_stats, batch.image, state.hyper))
        with EventWriter(log.folder / STEP_GRAPH) as events:
            events.graph(step_graph(functools.partial(train_step, setting), state, batch, root_of(setting.model)))
    except GraphError as error:
        log.terminal.warn(f"the GRAPHS tab stays empty: {error}")


def log_hyper(log: Log, setting: Setting, hyper: Hyper, seed: int, group: str = "") -> None:
    """A row of the HPARAMS tab, to which TensorBoard adds the last points of the curves.

    Args:
      log: of a single run, or of a member.
      setting: what is trained.
      hyper: its hyper-parameters.
      seed: its seed.
      group: of several seeds, which become one row with the mean of their scores.
    """
    values = _hyper_values(hyper) | _static_values(setting) | ({} if group else {"seed": seed})
    log.put(experiment({name: {"like": value} for name, value in values.items()}, METRICS))
    log.put(session_start(values, group))


def log_result(log: Log, summary: Mapping[str, Any]) -> None:
    """The result as a table, for the TEXT tab, and how the run ended, for HPARAMS; nothing of one that goes on."""
    if summary["status"] == "stopped":
        return
    log.text("summary", summary_table(summary), result_step(summary))
    log.put(session_end(summary["status"] != "diverged"), result_step(summary))


def result_step(summary: Mapping[str, Any]) -> int:
    """The step at which a result is told in words: behind the last one, where a resumed run drops what was written.

    A process that was killed after it had told the result is resumed from the last checkpoint and tells it again; and
    a run that goes on for more epochs has another result.
    """
    return int(summary["steps"]) + 1


def summary_table(summary: Mapping[str, Any]) -> str:
    """Scores and facts of a finished run as Markdown."""
    splits = [split for split in ("train", "val", "test") if split in summary]
    names = list(summary[splits[0]]) if splits else []
    lines = [f"| split | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {split} | {' | '.join(f'{summary[split][name]:.4f}' for name in names)} |" for split in splits]
    facts = [name for name in ("status", "final", "steps", "epochs", "seed", "num_parameters") if name in summary]
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {summary[name]} |" for name in facts)]
    lines += [
        f"| images per second | {summary['images_per_second']:,.0f} |",
        f"| digest | `{summary['digest'][:16]}` |",
    ]
    return "\n".join(lines)


def _hyper_values(hyper: Hyper) -> dict[str, Any]:
    """All of them, for of several runs TensorBoard takes the columns of one."""
    fields = {field.name: getattr(hyper, field.name) for field in dataclasses.fields(hyper) if field.name != "extra"}
    return {**fields, **hyper.extra}


def _static_values(setting: Setting) -> dict[str, Any]:
    config = setting.config
    optimizer, schedule = config.optimizer, config.schedule
    return {
        "model": type(setting.model.module).__name__,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "optimizer": optimizer.__name__ if callable(optimizer) else type(optimizer).__name__,
        "schedule": getattr(schedule, "kind", getattr(schedule, "__name__", "own")),
    }
