"""What a training's curves say, in words: findings with their evidence, and what to try next.

    for finding in diagnose(read_run("runs/x")):
        print(finding.title, finding.text, finding.advice)

Imports folders and files, nothing of training. How often it is right, on real runs with known faults, is measured:
docs/diagnosis.md.
"""

from jaxtrain.diagnose.diagnosis import Diagnosis, diagnose, diagnose_path, merge_told
from jaxtrain.diagnose.findings import NAMES, Finding
from jaxtrain.diagnose.foreign import read_csv
from jaxtrain.diagnose.history import History, read_members, read_run
from jaxtrain.diagnose.words import headline, in_markdown, in_words

__all__ = [
    "NAMES",
    "Diagnosis",
    "Finding",
    "History",
    "diagnose",
    "diagnose_path",
    "headline",
    "in_markdown",
    "in_words",
    "merge_told",
    "read_csv",
    "read_members",
    "read_run",
]
