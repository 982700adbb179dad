"""The written report: what a finished run found, as one HTML file and as Markdown, and several runs side by side.

Imports what lies below `run`; Jinja and Matplotlib are imported when a report is written. The fact that surprises:
whatever shows single examples is of the validation split, for a test split that is looked at is soon tuned on.

    baselines   what the result has to beat
    mistakes    where the network errs, on validation
    settings    the config as rows, with what differs from the defaults
    facts       all of a run's report as plain values
    comparison  the same of several runs
    words rows  the sentences and tables of both
    pictures overlay   the figures
    pages       the templates, *.j2
    write       all together
"""

from jaxtrain.report.facts import Finding
from jaxtrain.report.write import write_comparison, write_report

__all__ = ["Finding", "write_comparison", "write_report"]
