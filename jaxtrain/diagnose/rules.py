"""All rules: each reads the signs of a history and says what it finds, or nothing.

Imports the rules. The fact that surprises: they do not exclude one another here; a fault has many signs, and which
finding explains away which others is decided once, in `diagnosis`.
"""

from collections.abc import Callable

from jaxtrain.diagnose.findings import Finding
from jaxtrain.diagnose.rules_fit import overfitting, stale_batch_norm, underfitting
from jaxtrain.diagnose.rules_looks import dying_relus, exploding_gradients, noisy, not_normalised, vanishing_gradients
from jaxtrain.diagnose.rules_rates import diverged, lr_too_high, lr_too_low, plateau
from jaxtrain.diagnose.rules_targets import label_noise, leaked_validation, wrong_target
from jaxtrain.diagnose.signs import Signs

Rule = Callable[[Signs], Finding | None]

RULES: dict[str, Rule] = {
    "diverged": diverged,
    "not_normalised": not_normalised,
    "wrong_target": wrong_target,
    "exploding_gradients": exploding_gradients,
    "vanishing_gradients": vanishing_gradients,
    "dying_relus": dying_relus,
    "lr_too_high": lr_too_high,
    "lr_too_low": lr_too_low,
    "plateau": plateau,
    "stale_batch_norm": stale_batch_norm,
    "noisy": noisy,
    "label_noise": label_noise,
    "leaked_validation": leaked_validation,
    "overfitting": overfitting,
    "underfitting": underfitting,
}
"""In the order of `NAMES`."""
