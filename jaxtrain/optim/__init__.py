"""From `Hyper` to updates: schedules, the optimizer, penalties, averages of the weights, and what plateaus decide.

Imports `types`, `errors`, `config` and Optax. The fact that surprises: an optimizer is not kept anywhere. It is built
inside every step from the numbers in the state, which costs nothing once compiled.
"""

from jaxtrain.optim.averages import ema_update, init_ema, init_snapshots, init_swa, keep_snapshot, swa_update
from jaxtrain.optim.control import should_stop, update_control
from jaxtrain.optim.muon import check_rest
from jaxtrain.optim.optimizer import fade, freeze, max_norm, optimizer
from jaxtrain.optim.parameters import check_frozen_after, frozen_mask, kernel_mask, penalty
from jaxtrain.optim.schedules import make_schedule

__all__ = [
    "check_frozen_after",
    "check_rest",
    "ema_update",
    "fade",
    "freeze",
    "frozen_mask",
    "init_ema",
    "init_snapshots",
    "init_swa",
    "keep_snapshot",
    "kernel_mask",
    "make_schedule",
    "max_norm",
    "optimizer",
    "penalty",
    "should_stop",
    "swa_update",
    "update_control",
]
