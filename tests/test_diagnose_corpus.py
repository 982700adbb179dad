"""The diagnosis on the corpus of real runs: what docs/diagnosis.md says of it is so."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "corpus"))  # its files are scripts, no package

import mend  # noqa: E402
import score  # noqa: E402

from jaxtrain.files import read_json_lines  # noqa: E402


@pytest.fixture(scope="module", params=["tuning", "held-out"])
def half(request):
    return request.param, score.score(score.read(request.param, packed=True))


def test_the_table_of_the_docs_is_what_the_rules_find(half):
    name, scored = half
    text = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    table = score.table(scored) if name == "held-out" else score.alarms(scored)
    assert table in text, "score.py held-out --write docs/diagnosis.md writes it anew"


def test_healthy_runs_that_the_rules_were_tuned_on_are_called_so(half):
    name, scored = half
    healthy = [line for line in scored if line["kind"] == "healthy"]
    assert len(healthy) >= 60
    if name == "tuning":
        assert not [line["name"] for line in healthy if [finding.name for finding in line["found"]] != ["healthy"]]


def test_the_table_of_what_was_mended_is_that_of_the_results():
    lines = list(read_json_lines(ROOT / "benchmarks" / "results" / "mended.jsonl"))
    assert mend.table(lines) in (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")


def test_wilsons_interval_is_the_one_of_his_paper():
    assert score.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert score.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert score.wilson(10, 10)[1] == pytest.approx(1) and score.wilson(0, 0) == (0, 1)
