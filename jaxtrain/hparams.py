"""The HPARAMS tab: what a search varies, and what each of its trials was given.

Imports `errors`; tensorboardX inside the functions that need it. The fact that surprises: no result is written here.
A metric is declared as a folder and a tag (val, accuracy), and TensorBoard fills the table with the last point of
`<trial>/val`'s curve. And of two writings of one kind in one folder the *first* counts, also after a resumption.
"""

import importlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtrain.errors import RequestError

Space = Mapping[str, Mapping[str, Any]]
"""Name of a hyper-parameter -> {"low": 1e-4, "high": 1e-1, "log": True}, or {"values": [64, 128]}, or {"like": 0.1}:
any value of that kind, where other runs are yet to come."""


def experiment(space: Space, metrics: Sequence[str]) -> Any:
    """A Summary for `EventWriter.put`, once, in the root folder of a search.

    TensorBoard shows the first five columns by name and the others by a click; a logarithmic axis is a click too.

    Args:
      space: the hyper-parameters that are varied, which become columns and filters.
      metrics: "split/tag", for example "val/accuracy": the tag of the curve and the trial's sub-folder that has it.

    Raises:
      RequestError: if a hyper-parameter has neither a range nor values.
    """
    about = _api().Experiment(time_created_secs=time.time())
    for name, domain in space.items():
        _describe(about.hparam_infos.add(name=name), name, domain)
    for metric in metrics:
        group, _, tag = metric.rpartition("/")
        about.metric_infos.add(name={"group": group, "tag": tag}, display_name=metric)
    return _summary("experiment", experiment=about)


def session_start(hparams: Mapping[str, Any], group: str = "") -> Any:
    """A Summary for `EventWriter.put`, in the folder of a trial when it begins.

    Args:
      hparams: name -> value, written as `plain` has it.
      group: trials of one group are one row, with the mean of their metrics: a setting with several seeds.
    """
    start = _plugin().SessionStartInfo(group_name=group, start_time_secs=time.time())
    for name, value in hparams.items():
        _fill(start.hparams[name], value)
    return _summary("session_start_info", session_start_info=start)


def session_end(success: bool) -> Any:
    """A Summary for `EventWriter.put`, in the folder of a trial that will not be continued."""
    status = _api().STATUS_SUCCESS if success else _api().STATUS_FAILURE
    end = _plugin().SessionEndInfo(status=status, end_time_secs=time.time())
    return _summary("session_end_info", session_end_info=end)


def plain(value: Any) -> float | int | str | bool:
    """`value` as the HPARAMS table can hold it: a finite number, a boolean or a string.

    Scalars of NumPy and JAX become Python's. None is "none", for an empty cell would look like a trial without that
    hyper-parameter, and be missing in the parallel view. Sequences become "[64, 64]", NaN "nan", functions their name.
    """
    if value is None:
        return "none"
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0):
        return f"[{', '.join(str(plain(part)) for part in value)}]"
    if hasattr(value, "dtype"):
        value = _number(np.asarray(value)[()])
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float) else str(getattr(value, "__name__", value))


def _number(scalar: Any) -> Any:
    """Through its decimals: 0.1 in float32 is 0.10000000149 in float64, which a filter for 0.1 does not let pass."""
    return float(str(scalar)) if isinstance(scalar, np.floating) or scalar.dtype.kind == "V" else scalar.item()


def _describe(info: Any, name: str, domain: Mapping[str, Any]) -> None:
    """Type and domain of a column. One of mixed kinds (none, 0.1, 0.2) is one of strings, though its values are not."""
    if domain.keys() >= {"low", "high"}:
        info.type = _api().DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = domain["low"], domain["high"]
    elif domain.get("values"):
        values = [plain(value) for value in domain["values"]]
        kinds = {_kind(value) for value in values}
        info.type = _api().DataType.Value(kinds.pop() if len(kinds) == 1 else "DATA_TYPE_STRING")
        for value in values:
            _fill(info.domain_discrete.values.add(), value)
    elif "like" in domain:
        info.type = _api().DataType.Value(_kind(plain(domain["like"])))
    else:
        raise RequestError(f"{name} varies in {dict(domain)}; give low and high (and log), or values, or like")


def _kind(value: float | int | str | bool) -> str:
    if isinstance(value, bool):
        return "DATA_TYPE_BOOL"
    return "DATA_TYPE_STRING" if isinstance(value, str) else "DATA_TYPE_FLOAT64"


def _fill(place: Any, value: Any) -> None:
    """Put `value` in a google.protobuf.Value."""
    value = plain(value)
    if isinstance(value, bool):
        place.bool_value = value
    elif isinstance(value, str):
        place.string_value = value
    else:
        place.number_value = value


def _summary(tag: str, **content: Any) -> Any:
    """All the content is in the metadata; there is no value."""
    from tensorboardX import summary

    data = _plugin().HParamsPluginData(version=0, **content).SerializeToString()
    metadata = summary.SummaryMetadata(plugin_data={"plugin_name": "hparams", "content": data})
    return summary.Summary(value=[{"tag": f"_hparams_/{tag}", "metadata": metadata}])


def _api() -> Any:
    """Generated when imported: type checkers see no names in it."""
    return importlib.import_module("tensorboardX.proto.api_pb2")


def _plugin() -> Any:
    return importlib.import_module("tensorboardX.proto.plugin_hparams_pb2")
