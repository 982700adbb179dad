"""The public names: exactly the documented ones, each with a docstring, key first."""

import inspect

import jaxtrain as jt

NAMES = """
CNN MLP Adam Airbench Augment BatchNorm Choice Classification Config Conv DataConfig Dropout EarlyStopping Ensemble
Experiment Halving Hyper Linear Muon PatchWhitening Plateau Range Regression ResNet Schedule Search Sgd check epoch fit
from_arrays load_data load_run lr_range make_eval_step make_init make_probe make_train_step optimizer plot_schedule
recalibrate run_search write_report
""".split()


def test_the_root_exports_exactly_the_documented_names():
    assert sorted(jt.__all__) == sorted(NAMES)
    assert all(hasattr(jt, name) for name in NAMES)


def test_each_public_name_has_a_docstring_and_annotations():
    for name in NAMES:
        value = getattr(jt, name)
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), name  # dataclass's own is no docstring
        if inspect.isfunction(value):
            signature = inspect.signature(value)
            assert all(p.annotation is not p.empty for p in signature.parameters.values()), name
            assert signature.return_annotation is not signature.empty, name
            assert "rng" not in signature.parameters, name
