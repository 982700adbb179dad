"""Reports: their numbers are those of summary.json, they need no network, show no markup of others, and say what is
missing."""

import dataclasses
import html.parser
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxtrain as jt
from jaxtrain.config import DataConfig, Experiment
from jaxtrain.configfile import to_json
from jaxtrain.data import load_data
from jaxtrain.errors import RequestError
from jaxtrain.models import MLP
from jaxtrain.report import Finding, baselines, rows, words, write_comparison, write_report
from jaxtrain.report.comparison import differing, hold_contest
from jaxtrain.report.facts import gather_facts
from jaxtrain.report.mistakes import Mistakes, find_mistakes, of_classes, of_targets
from jaxtrain.report.pages import code, escape_markdown, render
from jaxtrain.report.pictures import Picture, Place, png_of
from jaxtrain.report.settings import rows_of
from jaxtrain.report.write import page_values
from jaxtrain.runs import Ensemble, load_run
from jaxtrain.seeds import Interval, cells, in_words
from jaxtrain.tasks import Classification, Regression

ROOT = Path(__file__).resolve().parents[1]
NASTY = ("<script>alert(1)</script>", "a|b", "*_`[x](y)", "&amp;", '"quoted"', "$x$")
DOT = png_of(Figure(figsize=(0.1, 0.2)))
BEFORE = {0: 0.970, 1: 0.972, 2: 0.971, 3: 0.969}
AFTER = {0: 0.974, 1: 0.975, 2: 0.976, 3: 0.973}


@dataclass(frozen=True)
class OwnTask:
    """A task of the user's own; only its type matters here."""


@pytest.fixture(scope="module", autouse=True)
def _patient():
    """A machine that is busy with other tests is no reason to leave the linear network out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "SECONDS", 600.0)
        yield


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig(name="digits"))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two members on digits, whose folders are those of single runs."""
    folder, config = tmp_path_factory.mktemp("report") / "two", jt.Config(epochs=2, batch_size=64)
    model = jt.MLP(hidden=(16,))
    return jt.fit(model, DataConfig(name="digits"), config, seeds=(0, 1), workdir=folder, quiet=True)


@pytest.fixture(scope="module")
def single(several):
    return load_run(several.folder / "members/000")


@pytest.fixture(scope="module", params=["single", "several"])
def written(request, data):
    """The run's folder with its report."""
    run = request.getfixturevalue(request.param)
    write_report(run, data, run.folder)
    return run.folder


@pytest.fixture(scope="module")
def facts(single, data):
    return gather_facts(single, data, single.folder)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("report_script", ROOT / "scripts" / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(html.parser.HTMLParser):
    """Tags, what they load, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.links, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            (self.links if tag == "a" else self.loads).extend([value] if name in ("src", "href", "data") else [])

    def handle_data(self, data):
        self.texts.append(data)


def pages_of(facts, **changes):
    """Both pages of changed facts, with a dot for each figure."""
    facts = dataclasses.replace(facts, **changes)
    drawn = [Picture(place, place, "", DOT, f"report/{place}.png") for place in get_args(Place)]
    values = page_values(facts, drawn)
    return render("report.html.j2", **values), render("report.md.j2", **values)


def test_the_numbers_are_those_of_summary_json(written):
    summary = json.loads((written / "summary.json").read_text())
    for text in ((written / "report.html").read_text(), (written / "report.md").read_text()):
        for split in ("train", "val", "test"):
            for metric, value in summary[split].items():
                found = summary.get("interval", {}).get(split, {}).get(metric)
                found = Interval(value, None, None, None, 1) if found is None else Interval(**found)
                shown = cells(found, metric == "accuracy")
                assert shown[0] in text and (found.std is None or shown[1] in text), (split, metric)
        assert summary["digest"] in text and summary["data"]["sha256"] in text


def test_the_page_loads_nothing_and_runs_nothing(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.loads and all(address.startswith("data:image/png;base64,") for address in page.loads)
    assert all(address.startswith("#") for address in page.links)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text


def test_every_link_leads_to_its_heading_and_every_figure_of_markdown_lies_beside_it(written):
    text = (written / "report.html").read_text()
    assert all(f'id="{address[1:]}"' in text for address in Page(text).links)
    files = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (written / "report.md").read_text())
    assert files and all((written / file).read_bytes()[:4] == b"\x89PNG" for file in files)


def test_the_same_run_gives_the_same_bytes(written, data):
    before = [(written / name).read_bytes() for name in ("report.html", "report.md")]
    write_report(load_run(written), data, written)
    assert [(written / name).read_bytes() for name in ("report.html", "report.md")] == before


def test_a_report_is_small(written):
    assert (written / "report.html").stat().st_size < 1_500_000


def test_markdown_tables_have_as_many_cells_in_each_row(written):
    rows_of_pipes = 0
    for block in (written / "report.md").read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(counts) <= 1 and len(lines) in (0, len(block.splitlines())), block
        rows_of_pipes += len(lines)
    assert rows_of_pipes > 30


def test_what_others_have_named_is_text_and_no_markup(facts):
    found = facts.mistakes
    names = tuple(f"{NASTY[k % len(NASTY)]}{k}" for k in range(10))
    mistakes = of_classes(found.image, found.label, found.log_probability[None], names)
    finding = Finding(NASTY[0], NASTY[0], NASTY[0])
    page, text = pages_of(facts, name=NASTY[0], mistakes=mistakes, diagnosis=(finding,), network=NASTY[0])
    assert "script" not in Page(page).tags and NASTY[0] in "".join(Page(page).texts)
    assert "<script" not in re.sub("`[^`]+`", "", text)  # a code span shows it as it is
    assert "a\\|b1" in text and "\\*\\_\\`\\[x](y)2" in text


@pytest.mark.parametrize("text", [*NASTY, "two\nlines", "a``b`"])
def test_markdown_escapes_are_on_one_line_and_let_no_tag_through(text):
    assert "\n" not in escape_markdown(text) and "<" not in escape_markdown(text) and "<" not in escape_markdown(text)
    fence = re.match("`+", code(text))
    assert fence is not None and code(text).endswith(fence[0]) and fence[0] not in text


def test_the_result_stands_beside_what_it_has_to_beat(facts, data):
    names = [row.name for row in rows.compared(facts)]
    assert names == ["most frequent class", "linear network", "this run"]
    sentence = words.result(facts)
    assert sentence.startswith("Test accuracy is ") and "10.00 % by the most frequent class and " in sentence
    train, test = (data.label[slice(*part)] for part in (data.train, data.test))
    share = np.bincount(train) / len(train)
    loss = rows.compared(facts)[0].scores["loss"]
    assert loss == pytest.approx(-np.log(share)[test].mean())


def test_a_constant_answer_scores_what_a_hand_computes():
    train, label = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    found = baselines.constant_class(train, label, 2)
    assert found == {"accuracy": 0.25, "loss": pytest.approx((np.log(4 / 3) + 3 * np.log(4)) / 4)}
    unseen = baselines.constant_class(train, np.array([2]), 3)
    assert unseen["loss"] == np.inf and words.number(unseen["loss"], "loss") == "infinite"
    assert baselines.constant_target(np.array([[1.0], [3.0]]), np.array([[4.0]])) == {"loss": 4, "mse": 4, "mae": 2}


def test_the_linear_network_is_trained_once_for_a_split(data):
    found = baselines.linear(Classification(10), data, "test")
    assert found.scores is not None and found.scores["accuracy"] > 0.9
    assert baselines.linear(Classification(10), data, "test") is found
    others = load_data(DataConfig(name="digits", split_seed=1, preprocess="unit"))
    assert baselines.linear(Classification(10), others, "test") is not found


def test_the_linear_network_that_takes_too_long_is_left_out_and_says_so(data, monkeypatch):
    for name, value in (("SECONDS", 0.0), ("MOST_WORK", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(baselines, name, value)
            found = baselines._logistic(data, "test")
        assert found.scores is None and "left out" in found.why


def test_least_squares_finds_a_linear_target():
    random = np.random.default_rng(0)
    feature = random.normal(size=(200, 5)).astype(np.float32)
    target = (feature @ np.array([1.0, -2, 0, 100, 3]) + 1000).astype(np.float32)
    data = jt.from_arrays(feature, target)
    found = baselines.linear(Regression(1), data, "val")
    assert found.scores is not None and found.scores["mae"] < 0.1
    assert baselines.constant_target(data.label[:180], data.label[180:])["mae"] > 50


def test_mistakes_are_counted_by_class_and_by_pair():
    label = np.array([0, 0, 0, 1, 1, 2])
    answer = np.array([0, 1, 1, 1, 1, 0])
    logits = np.where(np.eye(3)[answer] > 0, np.log(0.8), np.log(0.1))
    found = of_classes(np.zeros((6, 2, 2, 1), np.uint8), label, logits[None], ("a", "b", "c"))
    assert found.num_wrong == 3 and found.matrix.tolist() == [[1, 2, 0], [0, 2, 0], [1, 0, 0]]
    assert [(pair.name, pair.taken_for, pair.count) for pair in found.confused] == [("a", "b", 2), ("c", "a", 1)]
    assert found.classes[1].precision == 0.5 and found.classes[1].recall == 1 and np.isnan(found.classes[2].precision)


def test_the_members_mistakes_are_those_of_their_mean_probability(several, data):
    found = find_mistakes(several, data)
    start, stop = data.val
    report = several.evaluate(data.image[start:stop], data.label[start:stop])
    assert isinstance(found, Mistakes) and found.scores.accuracy == report["mean_of_probabilities"]["accuracy"]
    assert found.scores.nll == pytest.approx(report["mean_of_probabilities"]["nll"], rel=1e-5)


def test_examples_whose_answer_is_not_finite_are_left_out_and_counted(single, data, monkeypatch):
    outputs = single.outputs(data.image[slice(*data.val)])
    outputs[[3, 5]] = np.nan
    monkeypatch.setattr(type(single), "outputs", lambda self, images: outputs)
    found = find_mistakes(single, data)
    assert found is not None and found.num_left_out == 2 and found.num_examples == data.num_val - 2
    outputs[:] = np.nan
    assert find_mistakes(single, data) is None


def test_of_a_regression_each_target_has_its_error_bias_and_r_squared():
    target = np.array([[0.0, 5], [2, 5]])
    found = of_targets(target, target + [1.0, 0.0])
    assert found.targets[0][1:] == (1, 1, 1, 0) and found.targets[1].mse == 0
    assert np.isnan(found.targets[1].r_squared) and found.targets[1].name == "target 1"


def test_a_regression_has_a_report_with_residuals(tmp_path):
    random = np.random.default_rng(0)
    feature = random.normal(size=(120, 4)).astype(np.float32)
    data = jt.from_arrays(feature, feature[:, :2] * 3, test=(feature[:20] + 0.1, feature[:20, :2]))
    run = jt.fit(jt.Linear(2), data, jt.Config(epochs=1, batch_size=16), workdir=tmp_path / "run", quiet=True)
    text = write_report(run, data, tmp_path / "run").with_suffix(".md").read_text()
    assert "Test mean squared error is" in text and "linear regression" in text and "| target 1 |" in text
    assert "report/residuals.png" in text and "your own" in text  # the data came as arrays


def test_a_task_of_ones_own_has_scores_and_says_what_is_missing(single, data):
    setting = dataclasses.replace(single.setting, task=OwnTask())
    facts = gather_facts(dataclasses.replace(single, setting=setting), data, single.folder)
    page, text = pages_of(facts)
    assert facts.kind == "own" and not facts.baselines and facts.mistakes is None
    for shown in (page, text):
        assert "no baseline that is known" in shown and "a mistake is in a task of your own" in shown


def test_without_the_data_the_report_says_why(single, tmp_path):
    shutil.copytree(single.folder, tmp_path / "run")
    page = write_report(single, None, tmp_path / "run", no_data="It is on <another> machine.")
    assert "It is on &lt;another&gt; machine." in page.read_text()
    assert "It is on &lt;another&gt; machine." in page.with_suffix(".md").read_text()


def test_without_a_test_split_validation_is_the_result_and_a_caution_is_given(single, data):
    summary = {name: value for name, value in single.summary.items() if name != "test"}
    facts = gather_facts(dataclasses.replace(single, summary=summary), data, single.folder)
    assert words.result(facts).startswith("Validation accuracy is ")
    assert all(words.NO_TEST in shown for shown in pages_of(facts))


def test_a_diverged_member_is_named_and_left_out(several, data):
    lost = dataclasses.replace(several.members[1], summary={"status": "diverged", "note": "NaN at <step> 7"})
    facts = gather_facts(Ensemble([several.members[0], lost], several.summary), data, several.folder)
    assert facts.seeds == (0,) and facts.diverged == {1: "NaN at <step> 7"}
    page, text = pages_of(facts)
    assert "Seed 1 diverged" in page and "NaN at &lt;step&gt; 7" in page and "NaN at &lt;step&gt; 7" in text


def test_a_stopped_run_has_no_report(single):
    stopped = dataclasses.replace(single, summary={**single.summary, "status": "stopped"})
    with pytest.raises(RequestError, match="--resume"):
        gather_facts(stopped, None, single.folder)


def test_a_score_that_is_not_a_number_is_called_so(single):
    summary = {**single.summary, "test": {"loss": "NaN", "accuracy": float("nan")}}  # as read back, and as it was
    facts = gather_facts(dataclasses.replace(single, summary=summary), None, single.folder)
    assert words.result(facts) == "Test accuracy is not a number."
    assert all("not a number" in shown for shown in pages_of(facts))


def test_stand_in_data_is_said_before_anything_else(facts):
    page, text = pages_of(facts, data={**facts.data, "fallback": "digits"})
    for shown in (page, text):
        assert shown.index("Stand-in data") < shown.index("What the result means")


def test_of_many_classes_the_weakest_are_shown_and_all_can_be(facts):
    random = np.random.default_rng(0)
    label = random.integers(0, 100, 1000)
    logits = np.log(random.dirichlet(np.ones(100), size=1000))
    names = tuple(f"class {k}" for k in range(100))
    mistakes = of_classes(random.integers(0, 255, (1000, 4, 4, 1), dtype=np.uint8), label, logits[None], names)
    page, _ = pages_of(facts, mistakes=mistakes)
    assert len(rows.weakest(dataclasses.replace(facts, mistakes=mistakes))) == 8
    assert "The weakest classes" in page and "All 100 classes" in page


def test_settings_name_what_was_changed_and_explain_it():
    found = {row.path: row for row in rows_of(jt.Config(epochs=3, optimizer=jt.Sgd(nesterov=True)), "config")}
    changed = {path for path, row in found.items() if row.changed}
    assert changed == {"config.epochs", "config.optimizer", "config.optimizer.nesterov"}
    assert found["config.epochs"].default == "10" and found["config.epochs"].meaning.startswith("Passes over")


@pytest.mark.parametrize("whole", [False, True])
def test_checks_are_shown_if_they_were_made_and_a_diagnosis_if_it_was_given(facts, single, tmp_path, whole):
    for page in pages_of(facts, diagnosis=None):  # as of a run from before there were any
        assert "--check" in page and "Diagnosis" not in page
    check = {"name": "first loss", "value": 2.302585, "expected": "2.303", "verdict": "pass", "advice": None}
    (tmp_path / "checks.json").write_text(json.dumps({"checks": [check]} if whole else [check]))
    checked = gather_facts(single, None, tmp_path, diagnosis=[Finding("it overfits", "more data", "warning")])
    for page in pages_of(checked):
        assert "first loss" in page and "2.303" in page and "--check" not in page
        assert "Diagnosis" in page and "it overfits" in page and "more data" in page
    assert all("Nothing stands out." in page for page in pages_of(facts, diagnosis=()))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (250, "4 min 10 s"), (7500, "2 h 5 min"), ("NaN", "not measured")]
)
def test_durations_are_read_at_once(seconds, text):
    assert words.duration(seconds) == text


@pytest.fixture
def write(tmp_path):
    """A finished run written by hand."""

    def folder(name, accuracy, *, sha256="0" * 64, diverged=(), **changes):
        place = tmp_path / name
        place.mkdir(parents=True)
        config = to_json(Experiment(MLP(10, hidden=(8,)), DataConfig(), seed=min(accuracy)))
        for path, value in changes.items():
            part, _, field = path.partition("__")
            config[part][field] = value
        scores = {seed: {"loss": 1 - a, "accuracy": a} for seed, a in accuracy.items()}
        members = [{"seed": seed, "status": "done", "val": s, "test": s} for seed, s in scores.items()]
        members += [{"seed": seed, "status": "diverged"} for seed in diverged]
        data = {"name": "digits", "sha256": sha256, "num_train": 80, "num_val": 20, "num_test": 50}
        summary = {"status": "done", "data": data, "members": members, "steps": 20, "epochs": 2}
        summary |= {"num_parameters": 10, "seconds": 1}
        (place / "config.json").write_text(json.dumps(config))
        (place / "summary.json").write_text(json.dumps(summary))
        lines = [
            {
                "kind": "evaluation",
                "step": 10 * e,
                "epoch": e,
                "val/loss": 1 / e,
                "val/accuracy": 0.9,
                "val/loss/std": 0.1,
            }
            for e in (1, 2)
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return place

    return folder


def test_runs_are_ranked_by_validation_and_told_apart_in_words(write, tmp_path):
    folders = [write("plain", BEFORE), write("<b>wide", AFTER, hyper__learning_rate=0.01)]
    contest = hold_contest(folders)
    assert [run.name for run in contest.ranking] == ["<b>wide", "plain"] and contest.split == "val"
    assert contest.verdicts[0].comparison is not None and contest.verdicts[0].comparison.paired
    sentence = in_words(contest.verdicts[0].comparison, "plain", "<b>wide", "val accuracy")
    assert contest.verdicts[0].sentence == sentence and sentence.startswith("<b>wide is better by 0.40 points")
    page = write_comparison(folders, tmp_path / "out")
    shown = page.read_text()
    assert page.name == "out.html" and sentence in "".join(Page(shown).texts) and "<b>wide" not in shown
    assert all(address.startswith("data:") for address in Page(shown).loads)
    text = page.with_suffix(".md").read_text()
    assert "is better by 0.40 points" in text and "(out.png)" in text and (tmp_path / "out.png").is_file()
    assert "| `hyper.learning_rate` | 0.001 | 0.01 |" in text


def test_runs_on_other_data_are_warned_of_and_not_tested(write):
    contest = hold_contest([write("a", BEFORE), write("b", AFTER, sha256="1" * 64), write("c", AFTER)])
    assert contest.verdicts[0].comparison is None and contest.verdicts[0].sentence.startswith("not compared")
    assert [run.name for run in contest.ranking] == ["c", "a"] and "other examples" in contest.warnings[0]


def test_many_tests_are_warned_of(write):
    contest = hold_contest([write(name, values) for name, values in (("a", BEFORE), ("b", AFTER), ("c", AFTER))])
    assert "luck in up to 10 of 100" in contest.notes[0] and not contest.warnings


def test_seeds_that_diverged_are_named_in_a_comparison(write):
    contest = hold_contest([write("a", BEFORE), write("b", {0: 0.97, 1: 0.98}, diverged=(2,))])
    assert "seeds of b that are left out: 2 (diverged)" in contest.verdicts[0].notes


def test_only_fields_that_change_scores_differ():
    configs = [to_json(Experiment(MLP(), DataConfig(), jt.Config(epochs=e, log_every_steps=e))) for e in (1, 2)]
    assert [tuple(row) for row in differing(configs)] == [("config.epochs", ("1", "2"))]


def test_an_unfinished_run_or_one_given_twice_is_refused(write, tmp_path):
    a, b = write("a", BEFORE), write("b", AFTER)
    with pytest.raises(RequestError, match="given once"):
        hold_contest([a, a])
    (b / "summary.json").unlink()
    with pytest.raises(RequestError, match="an unfinished run; finish it with --resume"):
        hold_contest([a, b])
    with pytest.raises(RequestError, match="no run"):
        hold_contest([a, tmp_path / "nothing"])


def test_the_script_writes_one_report_again_and_puts_several_side_by_side(
    script, single, several, capsys, monkeypatch, tmp_path
):
    page = single.folder / "report.html"
    page.unlink(missing_ok=True)
    script.main([str(single.folder), "--no-baseline"])
    assert capsys.readouterr().out.strip() == str(page) and "Where it errs" in page.read_text()
    monkeypatch.chdir(tmp_path)
    script.main([str(single.folder), str(several.folder)])
    assert capsys.readouterr().out.strip() == "report-000-two.html" and Path("report-000-two.md").is_file()


def test_the_script_goes_on_without_data_that_is_not_there(script, single, tmp_path, capsys):
    shutil.copytree(single.folder, tmp_path / "run")
    stored = json.loads((tmp_path / "run/config.json").read_text())
    stored["data"] |= {"name": "npz", "path": str(tmp_path / "gone.npz")}
    (tmp_path / "run/config.json").write_text(json.dumps(stored))
    script.main([str(tmp_path / "run")])
    assert "without what needs the data" in capsys.readouterr().err
    assert "The data could not be loaded" in (tmp_path / "run/report.md").read_text()


@pytest.mark.parametrize("flags", [["--output", "x"], ["--hyper.learning_rate=1"]])
def test_the_script_refuses_what_would_have_no_effect(script, single, flags):
    with pytest.raises(RequestError, match="--output is not for one run|takes only --data.dir"):
        script.main([str(single.folder), *flags])


def test_importing_the_report_imports_no_template_engine():
    import subprocess

    probe = "import sys, jaxtrain.report; print('jinja2' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"], done.stderr
