"""Checks before training: of the data, the forward pass, the gradient, and whether the network learns.

Imports the request, the programs and what lies below; not the loop. The fact that surprises: most faults in a training
program raise no error. They train, worse, and each has a symptom that can be looked for in seconds.
"""

from jaxtrain.checks.checkup import Check, Checkup
from jaxtrain.checks.table import check

__all__ = ["Check", "Checkup", "check"]
