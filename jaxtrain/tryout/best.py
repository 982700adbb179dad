"""The best of what was tried as a config of full length, which scripts/train.py takes.

Imports config files and files. The fact that surprises: a network of the user's own, which JSON can only name, comes
from a config file that is written beside it and that reads the user's.
"""

import json
from pathlib import Path

from jaxtrain.config import Experiment, own_functions
from jaxtrain.configfile import to_json
from jaxtrain.fields import fields_of, is_instance_of_dataclass
from jaxtrain.files import remove, write_json, write_text
from jaxtrain.tryout.judge import Tryout
from jaxtrain.types import Model

_OWN = '''"""The best of what was tried: {name}. Run it by scripts/train.py --config and the path of this file."""

import json
from pathlib import Path

from jaxtrain.configfile import from_json, load_config
from jaxtrain.fields import replace_at

OWN = {reference!r}
MODEL = {fields!r}


def get_config():
    own = load_config(OWN)
    model = own.model
    for name, value in MODEL.items():
        model = replace_at(model, name, value)
    described = json.loads(Path(__file__).with_name("best.json").read_text(encoding="utf-8"))
    return from_json(described, model=model, {passed})
'''


def write_best(tryout: Tryout, folder: Path, *, reference: str | None = None) -> Path | None:
    """Write the experiment of the remedy that helped most, of full length; remove that of an earlier try.

    Args:
      tryout: what was tried.
      folder: best.json goes there; and best.py where the network or a function is the user's own.
      reference: the config file of such a network, as `load_config` takes it.

    Returns:
      The file that scripts/train.py --config takes; None where nothing helped.

    Raises:
      WorldError: it cannot be written.
    """
    for name in ("best.json", "best.py"):
        remove(folder / name)
    best = tryout.best
    if best is None:
        return None
    experiment = best.trial.experiment
    described = to_json(experiment)
    write_json(folder / "best.json", described)
    if reference is None or '"type": "user"' not in json.dumps(described):
        return folder / "best.json"
    place = folder / "best.py"
    write_text(place, _own_config(tryout, best.trial.name, experiment, reference))
    return place


def _own_config(tryout: Tryout, name: str, experiment: Experiment, reference: str) -> str:
    path, colon, variant = reference.partition(".py:")
    absolute = f"{Path(f'{path}.py').absolute()}:{variant}" if colon else str(Path(reference).absolute())
    passed = ", ".join(f"{part}=own.config.{part}" for part in own_functions(experiment.config))
    return _OWN.format(
        name=name.replace("\\", "/").replace('"', "'"),
        reference=absolute,
        fields=_changed_fields(tryout.control.experiment, experiment),
        passed=passed,
    ).replace(", )", ")")


def _changed_fields(original: Experiment, changed: Experiment) -> dict[str, object]:
    """Path in the network -> value, of what the remedy has set there."""
    inner = "module." if isinstance(original.model, Model) else ""
    before, after = (each.model.module if inner else each.model for each in (original, changed))
    if not is_instance_of_dataclass(before):
        return {}
    old = {field.name: field.value for field in fields_of(before)}
    return {f"{inner}{field.name}": field.value for field in fields_of(after) if old[field.name] != field.value}
