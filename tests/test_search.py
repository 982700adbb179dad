"""The whole search: results, winner, workers that are killed, refinement, and the script. Training takes no time here
but in the tests that say so."""

import csv
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import numpy as np
import pytest
from fake_training import BEST_RATE, Trainer, changed, data, lines, search, static_search

import jaxtrain as jt
from jaxtrain.configfile import load_config, load_search
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.search.findings import refined
from jaxtrain.search.run import run_search
from jaxtrain.search.study import open_study
from jaxtrain.search.workers import lock
from jaxtrain.space import Choice, Halving, Range, Search, check_search

ROOT = Path(__file__).resolve().parents[1]
DATA = data()


@pytest.fixture(autouse=True)
def no_figure(monkeypatch):
    """A figure takes two seconds; `finished`, which is made before this, has one."""
    monkeypatch.setattr("jaxtrain.plots.search.trials_figure", lambda *args, **options: None)


def run(searched, folder, trainer=None, **options):
    trainer = trainer or Trainer()
    result = run_search(searched, workdir=folder, data=DATA, training=trainer.training, quiet=True, **options)
    return result, trainer


def table(folder):
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search of 24 trials, with its winner."""
    folder = tmp_path_factory.mktemp("search") / "s"
    result, trainer = run(static_search(trials=24, winner_seeds=3), folder)
    return result, trainer, folder


def test_the_best_trial_is_the_one_with_the_best_score(finished):
    result, _, folder = finished
    rows = table(folder)
    scores = [float(row["value"]) for row in rows]
    assert scores == sorted(scores, reverse=True) and len(rows) == 24
    best = result.summary["best"][0]
    assert best["number"] == int(rows[0]["number"]) and best["value"] == scores[0]
    assert abs(np.log10(result.best.hyper.learning_rate / BEST_RATE)) < 0.3
    assert json.loads((folder / "search.json").read_text())["best"] == result.summary["best"]


def test_what_was_found_is_in_the_folder(finished):
    result, _, folder = finished
    assert (folder / "trials.png").read_bytes().startswith(b"\x89PNG")
    low, high = result.summary["best"][0]["interval"]
    assert low < result.summary["best"][0]["value"] < high
    assert next(iter(result.summary["importance"])) == "hyper.learning_rate"
    assert result.summary["done"] and result.summary["trials"] == {"complete": 24}
    assert result.summary["member_steps"] == result.summary["member_steps_in_full"]


def test_the_winner_is_trained_over_seeds_that_no_trial_had(finished):
    result, trainer, folder = finished
    ((hyper, options),) = trainer.fits
    assert hyper == result.best.hyper and options["seeds"] == [1, 2, 3] and result.search.experiment.seed == 0
    assert options["workdir"] == folder / "winner" and not options["resume"]
    assert result.summary["winner"]["interval"]["val"]["accuracy"]["mean"] == 0.9


def test_weights_are_kept_of_the_best_trials_only(finished):
    result, _, folder = finished
    kept = {int(place.name): float((place / "rate").read_text()) for place in (folder / "best").iterdir()}
    assert kept == {t["number"]: t["params"]["hyper.learning_rate"] for t in result.summary["best"]}
    assert len(kept) == result.search.keep == 5


def test_the_hparams_tab_has_each_trial_with_its_values_and_curve(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result, _, folder = finished
    best = result.summary["best"][0]
    place = folder / "trials" / f"{best['number']:04d}"
    values = EventAccumulator(str(place / "val")).Reload().Scalars("accuracy")
    assert len(values) == 9 and values[-1].value == pytest.approx(best["value"])
    assert len(list((folder / "trials").iterdir())) == 24
    for holder, tag in ((folder, "experiment"), (place, "session_start_info"), (place, "session_end_info")):
        assert f"_hparams_/{tag}" in EventAccumulator(str(holder)).Reload().summary_metadata


def test_the_same_call_again_trains_nothing_and_keeps_everything(finished):
    result, _, folder = finished
    again, trainer = run(static_search(trials=24, winner_seeds=3), folder)
    assert trainer.calls == [] and trainer.fits == []
    assert again.summary["best"] == result.summary["best"] and again.summary["winner"] == result.summary["winner"]


def test_more_trials_go_on_from_there_and_a_new_winner_leaves_the_old_one(tmp_path):
    first, _ = run(search(trials=2, winner_seeds=1), tmp_path / "s")
    more, trainer = run(search(trials=20, winner_seeds=1), tmp_path / "s")
    assert sum(width for width, _ in trainer.calls) == 18
    assert more.summary["best"][0]["value"] > first.summary["best"][0]["value"]
    assert (tmp_path / "s" / f"winner-of-trial-{first.summary['best'][0]['number']}").is_dir()
    assert (tmp_path / "s" / "winner").is_dir() and len(trainer.fits) == 1


def test_a_folder_of_another_search_is_refused(tmp_path):
    run(search(trials=2), tmp_path / "s")
    with pytest.raises(RequestError, match="space.hyper.dropout_rate.high is 0.4, was 0.5"):
        drawn = {**search().space, "hyper.dropout_rate": Range(0.0, 0.4)}
        run(search(drawn, trials=2), tmp_path / "s")
    with pytest.raises(RequestError, match="experiment.config.epochs is 8, was 9"):
        run(search(trials=2, config={"epochs": 8}), tmp_path / "s")
    run(search(trials=2, config={"log_every_steps": 7}), tmp_path / "s")


WRONG = [
    (search({"batch_size": Choice((10, 91))}), {}, "with batch_size 91: .*holds 90"),
    (search({"hyper.dropout_rate": Range(0.0, 1.0)}), {}, "dropout_rate"),
    (search(config={"watch": "f1"}), {}, "watch"),
    (search(), {"storage": "sqlite:////missing/folder/x.db"}, "cannot be reached"),
]


@pytest.mark.parametrize(("searched", "options", "message"), WRONG, ids=["combination", "range", "metric", "storage"])
def test_what_is_refused_trains_and_writes_nothing(tmp_path, searched, options, message):
    trainer = Trainer()
    with pytest.raises((RequestError, WorldError), match=message):
        run(searched, tmp_path / "s", trainer, **options)
    assert trainer.groups == [] and not (tmp_path / "s").exists()


def test_diverged_trials_are_results_and_counted_as_such(tmp_path):
    wild = {"hyper.learning_rate": Range(1e-3, 100.0, log=True)}
    result, _ = run(search(wild, trials=20), tmp_path / "s")
    counts = result.summary["trials"]
    assert counts["diverged"] > 0 and counts["complete"] > 0 and sum(counts.values()) == 20
    assert table(tmp_path / "s")[-1]["state"] == "diverged"


def test_where_every_trial_diverges_the_search_says_so(tmp_path):
    hopeless = {"hyper.learning_rate": Range(1.0, 100.0, log=True)}
    with pytest.raises(NonFiniteError, match="all 5 trials diverged"):
        run(search(hopeless, trials=5), tmp_path / "s")
    assert len(table(tmp_path / "s")) == 5


def test_a_border_is_warned_of_in_words(tmp_path, capsys):
    low = {"hyper.learning_rate": Range(1e-6, 1e-5, log=True)}
    result, _ = run(search(low, trials=30), tmp_path / "s")
    (warning,) = result.summary["warnings"]
    assert "hyper.learning_rate lies at the upper border (1e-05)" in warning and "search higher" in warning
    assert "upper border" in capsys.readouterr().out  # also where all else is quiet


def test_halving_finds_the_same_best_with_less_than_half_the_work(tmp_path):
    full, _ = run(search(trials=27), tmp_path / "full")
    halved, _ = run(search(trials=27, halving=Halving()), tmp_path / "halved")
    assert halved.summary["best"][0]["params"] == full.summary["best"][0]["params"]
    assert halved.summary["member_steps"] < 0.5 * full.summary["member_steps"]
    assert halved.summary["member_steps_in_full"] == full.summary["member_steps"]
    assert halved.summary["trials"] == {"complete": 3, "pruned": 24}


def test_a_stop_gives_trials_back_and_the_same_call_goes_on(tmp_path):
    trainer = Trainer()
    stopped, _ = run(static_search(trials=24), tmp_path / "s", trainer, stop=lambda: len(trainer.calls) >= 2)
    assert not stopped.summary["done"] and stopped.summary["winner"] is None
    ended = stopped.summary["trials"].get("complete", 0)
    assert 0 < ended < 24
    result, again = run(static_search(trials=24), tmp_path / "s")
    assert result.summary["trials"]["complete"] == 24 and result.summary["done"]
    assert sum(width for width, _ in again.calls) == 24 - ended
    assert {t.again for t in result.trials if t.again is not None} == {
        t.number for t in result.trials if t.state == "lost"
    }


@pytest.fixture
def writing(tmp_path):
    """The lock of a worker that writes results; closing it ends that."""
    (tmp_path / "s").mkdir()
    file = lock(tmp_path / "s" / "results.lock")
    assert file is not None
    with file:
        yield file


def when_waiting(monkeypatch, happens):
    """What happens while `run_search` waits."""
    clock = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda seconds: happens())
    monkeypatch.setattr("jaxtrain.search.run.time", clock)


def test_who_ends_the_search_while_a_stopped_worker_writes_waits_and_trains_the_winner(tmp_path, monkeypatch, writing):
    when_waiting(monkeypatch, writing.close)
    result, trainer = run(search(trials=2, winner_seeds=1), tmp_path / "s")
    assert writing.closed and len(trainer.fits) == 1 and result.summary["winner"] is not None
    assert json.loads((tmp_path / "s" / "search.json").read_text())["done"]


def test_who_waits_for_the_results_leaves_once_all_trials_are_in_them(tmp_path, monkeypatch, writing):
    findings = tmp_path / "s" / "search.json"
    findings.write_text(json.dumps({"done": True, "num_trials": 1}))  # of a search before, of fewer trials
    when_waiting(monkeypatch, lambda: findings.write_text(json.dumps({"done": True, "num_trials": 2})))
    _, trainer = run(search(trials=2, winner_seeds=1), tmp_path / "s")
    assert trainer.fits == [] and json.loads(findings.read_text())["num_trials"] == 2


def test_who_waits_for_the_results_can_be_stopped(tmp_path, monkeypatch, writing):
    stops = []
    when_waiting(monkeypatch, lambda: stops.append(1))
    _, trainer = run(search(trials=2, winner_seeds=1), tmp_path / "s", stop=lambda: bool(stops))
    assert len(stops) == 1 and trainer.fits == [] and not (tmp_path / "s" / "search.json").exists()


WORKER = """
import sys
from pathlib import Path
from fake_training import Trainer, data, static_search
from jaxtrain.search.run import run_search
folder, storage, hang_after = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
trainer = Trainer(hang_after=hang_after if hang_after >= 0 else None, notes=Path(folder + ".notes"))
search = static_search(trials=40, round_size=6)
run_search(search, workdir=folder, storage=storage, data=data(), training=trainer.training, quiet=True)
"""


def start(folder, storage, hang_after=-1):
    command = [sys.executable, "-c", WORKER, str(folder), storage or "", str(hang_after)]
    return subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition(), process.communicate()[1] if process.poll() is not None else "too slow"


def stored(folder, storage):
    """The trials of a study, whatever it describes."""
    searched = check_search(static_search(trials=40))
    with open_study(searched, folder, storage, sign=1, described={}, may_differ=ANYTHING) as study:
        return study.trials()


class Anything:
    def __contains__(self, name):
        return True


ANYTHING = Anything()


@pytest.mark.parametrize("kind", ["journal", pytest.param("database", marks=pytest.mark.slow)])
def test_of_two_workers_one_is_killed_and_no_trial_is_lost_or_run_twice(tmp_path, kind):
    folder, storage = tmp_path / "s", None if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    notes = tmp_path / "s.notes"
    doomed = start(folder, storage, hang_after=4)  # trains four groups, and hangs in the next one
    other = start(folder, storage)
    wait_for(lambda: any("hanging" in line for line in lines(notes)), doomed)
    doomed.kill()
    doomed.wait()
    _, errors = other.communicate(timeout=240)
    assert other.returncode == 0, errors

    trained = [rate for line in lines(notes) for rate in line.get("trained", [])]
    hanging = [rate for line in lines(notes) for rate in line.get("hanging", [])]
    assert len(trained) == len(set(trained)) == 40 and set(hanging) <= set(trained)
    trials = stored(folder, storage)
    lost = [t for t in trials if t.state == "lost"]
    assert hanging and set(hanging) <= {t.params["hyper.learning_rate"] for t in lost}
    assert sorted(t.again for t in trials if t.again is not None) == [t.number for t in lost]
    assert [t.state for t in trials].count("complete") == 40
    assert len({t.worker for t in lost}) == 1  # the killed one's only
    assert json.loads((folder / "search.json").read_text())["done"]


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coarse") / "s"
    run(static_search(trials=24), folder)
    return folder


def test_refining_searches_around_the_best_and_finds_better(coarse, tmp_path):
    fine = refined(static_search(trials=24), coarse)
    old, new = static_search().space["hyper.learning_rate"], fine.space["hyper.learning_rate"]
    assert old.unit(new.high) - old.unit(new.low) <= 1 / 3 + 1e-9 and new.low < BEST_RATE < new.high
    result, _ = run(fine, tmp_path / "s")
    before = json.loads((coarse / "search.json").read_text())["best"][0]["value"]
    assert result.summary["best"][0]["value"] > before
    finer = refined(static_search(trials=24), tmp_path / "s")  # the ranges of the folder count, not the config's
    assert new.unit(finer.space["hyper.learning_rate"].high) - new.unit(finer.space["hyper.learning_rate"].low) < 0.34


def test_refining_needs_a_finished_search_of_the_same_space(coarse, tmp_path):
    with pytest.raises(RequestError, match="no search with a complete trial"):
        refined(static_search(), tmp_path)
    with pytest.raises(RequestError, match="give the config file of that search"):
        refined(search(), coarse)


# ---- with real training


class Small(nn.Module):
    @nn.compact
    def __call__(self, image, *, train, hyper):
        x = nn.relu(nn.Dense(8)(image.reshape(image.shape[0], -1)))
        return nn.Dense(4)(jt.Dropout()(x, hyper.dropout_rate, train=train))


FOUR = {
    "hyper.learning_rate": Range(1e-4, 1e-1, log=True),
    "hyper.weight_decay": Range(1e-4, 1.0, log=True),
    "hyper.dropout_rate": Range(0.0, 0.5),
    "hyper.label_smoothing": Range(0.0, 0.2),
}


def real(tiny, **options):
    image, label = tiny
    experiment = jt.Experiment(Small(), jt.DataConfig(), jt.Config(epochs=3, batch_size=20))
    searched = Search(experiment, FOUR, **{"trials": 4, "winner_seeds": 0, **options})
    return searched, jt.from_arrays(image, label, val_share=0.2, test=(image[:20], label[:20]))


@pytest.mark.parametrize("parallel", [pytest.param("loop", marks=pytest.mark.slow), "vmap"])
def test_one_trace_serves_64_trials_of_four_hyper_parameters(tiny, tmp_path, monkeypatch, parallel):
    import jaxtrain.program

    traced, step = [], jaxtrain.program.train_step
    monkeypatch.setattr(jaxtrain.program, "train_step", lambda *args: (traced.append(1), step(*args))[1])
    jaxtrain.program.compile_program.cache_clear()
    searched, examples = real(tiny, trials=64)
    searched = changed(searched, experiment=changed(searched.experiment, parallel=parallel))
    result = run_search(searched, workdir=tmp_path / "s", data=examples, quiet=True)
    assert sum(traced) == 1 and result.summary["trials"]["complete"] == 64


def test_a_trial_is_the_run_with_its_values_and_the_winner_alone_sees_the_test_split(tiny, tmp_path):
    searched, examples = real(tiny, trials=3, winner_seeds=2)
    result = run_search(searched, workdir=tmp_path / "s", data=examples, quiet=True)
    best = result.best
    run = jt.fit(best.model, examples, best.config, best.hyper, seed=best.seed, quiet=True)
    assert run.history[-1]["val/accuracy"] == pytest.approx(result.summary["best"][0]["value"], abs=1e-6)
    winner = result.summary["winner"]
    assert winner["seeds"] == [1, 2] and set(winner["interval"]) == {"train", "val", "test"}
    assert not list((tmp_path / "s" / "trials").rglob("test"))
    assert "test" not in (tmp_path / "s" / "trials.csv").read_text().splitlines()[0]


def test_a_winner_that_was_stopped_goes_on_under_another_parallel(tiny, tmp_path):
    searched, examples = real(tiny, trials=1, winner_seeds=2)
    begun = tmp_path / "s" / "winner" / "config.json"
    loop, vmap = (changed(searched, experiment=changed(searched.experiment, parallel=p)) for p in ("loop", "vmap"))
    stopped = run_search(loop, workdir=tmp_path / "s", data=examples, quiet=True, stop=begun.exists)
    assert begun.exists() and stopped.summary["done"] and stopped.summary["winner"] is None
    result = run_search(vmap, workdir=tmp_path / "s", data=examples, quiet=True)
    assert result.summary["winner"]["seeds"] == [1, 2] and json.loads(begun.read_text())["parallel"] == "loop"


def test_a_group_in_which_every_member_diverges_is_a_result(tiny, tmp_path):
    searched, examples = real(tiny, trials=2)
    searched = changed(searched, space={**FOUR, "hyper.learning_rate": Choice((1e30,))})
    with pytest.raises(NonFiniteError, match="all 2 trials diverged"):
        run_search(searched, workdir=tmp_path / "s", data=examples, quiet=True)
    assert [row["state"] for row in table(tmp_path / "s")] == ["diverged", "diverged"]


def test_halving_in_earnest_continues_and_does_not_begin_again(tiny, tmp_path):
    searched, examples = real(tiny)
    full = run_search(searched, workdir=tmp_path / "full", data=examples, quiet=True)
    halving = changed(searched, halving=Halving(eta=2))
    halved = run_search(halving, workdir=tmp_path / "halved", data=examples, quiet=True)
    scores = {t.number: t.value for t in full.trials}
    for trial in halved.trials:
        if trial.state == "complete":
            assert trial.value == pytest.approx(scores[trial.number], abs=1e-6)
    assert halved.summary["member_steps"] < full.summary["member_steps"]


# ---- the script and its configs


@pytest.mark.parametrize(
    "name", ["digits_search.py", "mnist_search.py", "mnist_search.py:cnn", "mnist_search.py:linear"]
)
def test_the_configs_describe_searches(name):
    checked = check_search(load_search(str(ROOT / "configs" / name)))
    assert checked.trials == 60 and "hyper.learning_rate" in checked.space


def script(*args, cwd):
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), *map(str, args)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cwd / "cache")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


QUICK = ["--config", ROOT / "configs/digits_search.py"]
OWN = """
import jaxtrain as jt
from jaxtrain.space import Range, Search

def get_config():
    model = jt.Linear(num_outputs=10)
    experiment = jt.Experiment(model, jt.DataConfig(name="digits"), jt.Config(epochs=9, batch_size=64))
    space = {"hyper.learning_rate": Range(1e-4, 1e-1, log=True), "hyper.l2": Range(0, 0.5)}
    return Search(experiment, space, trials=4)
"""


@pytest.mark.slow
def test_the_script_searches_and_its_best_config_trains(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    flags = ["--config", "own.py", "--batch_size", 100, "--epochs", 2]
    status, out, err = script(*flags, "--workdir", "s", "--halving", 2, "--winner-seeds", 2, cwd=tmp_path)
    assert status == 0, err
    assert out.startswith("search folder: s\ntensorboard --logdir s\n") and "test accuracy" in out
    best = load_config(str(tmp_path / "s" / "best_config.json"))
    assert (best.config.batch_size, best.config.epochs) == (100, 2) and best.hyper.l2 is not None
    status, out, err = script(*flags, "--refine", "s", "--trials", 2, "--winner-seeds", 0, cwd=tmp_path)
    assert status == 0 and out.startswith("search folder: s-refined"), err


def test_a_refinement_lies_beside_what_it_refines(tmp_path, monkeypatch):
    beside = runpy.run_path(str(ROOT / "scripts" / "search.py"))["beside"]
    monkeypatch.chdir(tmp_path)
    assert beside(Path("a/s")) == Path("a/s-refined")
    assert beside(Path()) == tmp_path.with_name(f"{tmp_path.name}-refined")


REFUSED = [
    ([], "--config is missing"),
    (["--config", ROOT / "configs/digits.py"], "describes one experiment"),
    ([*QUICK, "--hyper.learning_rat=1"], "'--hyper.learning_rate'"),
    ([*QUICK, "--sampler", "tp"], "did you mean 'tpe'"),
    ([*QUICK, "--trails", 3], "'--trials'"),
    ([*QUICK, "--workdir", ""], "argument --workdir: is empty; name a folder"),
    ([*QUICK, "--refine", ""], "argument --refine: is empty; name a folder"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_wrong_request_is_one_line_and_status_2(tmp_path, args, message):
    status, out, err = script(*args, cwd=tmp_path)
    assert status == 2 and err.startswith("error: ") and message in err and "Traceback" not in err + out
    assert not (tmp_path / "runs").exists()


def test_help_shows_the_flags_and_the_fields(tmp_path):
    status, out, _ = script("--config", ROOT / "configs/digits_search.py", "--help", cwd=tmp_path)
    assert status == 0 and "--halving" in out and "--storage" in out and "--hyper.learning" in out
