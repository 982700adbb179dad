"""Asked, told, lost and repeated: whatever happens to its workers, a study ends with each trial run once."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_training import search

import jaxtrain.search.study
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.search.study import open_study
from jaxtrain.search.workers import Address
from jaxtrain.space import Choice, Range, check_search

SPACE = {
    "hyper.learning_rate": Range(1e-5, 0.1, log=True),
    "model.width": Range(2, 16, integer=True),
    "batch_size": Choice((10, 15)),
}


@pytest.fixture(params=["journal", "database"])
def storage(request, tmp_path):
    """Where trials are kept: a file in the folder, or SQLite."""
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


def join(folder, storage=None, *, sign=1, described=None, now=lambda: 0.0, **options):
    searched = check_search(search(SPACE, **options))
    return open_study(searched, folder, storage, sign=sign, described=described or {"a": 1}, now=now)


def numbers(trials):
    return [trial.number for trial in trials]


def run(study, trials):
    for trial in trials:
        assert study.finish(trial.number, "complete", trial.params["hyper.learning_rate"], epochs=3)


def test_the_draws_depend_on_the_seed_and_the_number_alone(tmp_path):
    with join(tmp_path / "alone") as one:
        alone = [t.params for t in one.ask(12)]
    with join(tmp_path / "shared") as one, join(tmp_path / "shared") as two:
        parts = one.ask(3) + two.ask(4) + one.ask(1) + two.ask(9)
    shared = {trial.number: trial.params for trial in parts}
    assert [shared[number] for number in range(12)] == alone
    with join(tmp_path / "other", seed=1) as one:
        assert one.ask(12)[0].params != alone[0]
    assert len({json.dumps(params) for params in alone}) == 12


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_every_sampler_stays_in_the_space_and_repeats_nothing(tmp_path, sampler):
    with (
        join(tmp_path / "s", sampler=sampler, trials=24) as one,
        join(tmp_path / "s", sampler=sampler, trials=24) as two,
    ):
        for _ in range(3):
            run(one, one.ask(4))
            run(two, two.ask(4))
        trials = one.trials()
    assert numbers(trials) == list(range(24))
    for trial in trials:
        rate, width, size = (trial.params[name] for name in SPACE)
        assert 1e-5 <= rate <= 0.1 and width in range(2, 17) and isinstance(width, int) and size in (10, 15)
    assert len({trial.params["hyper.learning_rate"] for trial in trials}) == 24


def test_a_sampler_of_the_users_is_given_a_seed(tmp_path):
    import optuna

    seeds = []

    def sampler(seed):
        seeds.append(seed)
        return optuna.samplers.RandomSampler(seed)

    with join(tmp_path / "s", sampler=sampler) as study:
        study.ask(3)
    assert len(set(seeds)) == 3


def test_no_more_trials_are_given_out_than_were_asked_for(tmp_path, storage):
    with join(tmp_path / "s", storage) as one, join(tmp_path / "s", storage) as two:
        first, second = one.ask(10), two.ask(10)
        assert numbers(first) == list(range(10)) and numbers(second) == [10, 11]
        assert two.ask(1) == [] and not two.is_done
        run(one, first)
        run(two, second)
        assert one.is_done and two.is_done


def test_of_two_that_ask_for_the_last_trial_the_later_one_gives_it_back(tmp_path, storage, monkeypatch):
    with join(tmp_path / "s", storage, trials=1) as one, join(tmp_path / "s", storage, trials=1) as two:
        monkeypatch.setattr(
            jaxtrain.search.study.Study, "left", property(lambda self: 1)
        )  # as seen before the other asked
        first, second = one._ask_one(), two._ask_one()
        monkeypatch.undo()
        assert first is not None and second is None
        assert [t.state for t in one.trials()] == ["running", "surplus"] and one.left == two.left == 0
        run(one, [first])
        assert one.is_done


def test_what_a_worker_has_not_finished_when_it_leaves_is_asked_again(tmp_path, storage):
    with join(tmp_path / "s", storage, trials=4) as one:
        asked = one.ask(3)
        run(one, asked[:1])
    with join(tmp_path / "s", storage, trials=4) as two:
        assert [t.state for t in two.trials()] == ["complete", "lost", "lost", "waiting", "waiting"]
        assert two.left == 3 and not two.is_done
        again = two.ask(9)
        assert [t.again for t in again] == [1, 2, None]
        assert [t.params for t in again[:2]] == [t.params for t in asked[1:]]
        run(two, again)
        assert two.is_done and sum(t.state == "complete" for t in two.trials()) == 4


def test_a_trial_whose_worker_died_between_outcome_and_value_is_asked_again(tmp_path, storage, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), join(tmp_path / "s", storage, trials=1) as one:
        asked = one.ask(1)
        monkeypatch.setattr(one._study, "tell", killed)
        run(one, asked)
    monkeypatch.undo()
    with join(tmp_path / "s", storage, trials=1) as two:
        two.sweep()
        assert two.trials()[0].state in ("lost", "running") and not two.is_done


@pytest.mark.parametrize("where", SPACE)
def test_a_trial_whose_worker_died_amid_its_draws_is_drawn_as_if_nothing_had_happened(tmp_path, monkeypatch, where):
    suggest = jaxtrain.search.study._suggest

    def killed(trial, name, member):
        if trial.number in (3, 4) and name == where:
            raise KeyboardInterrupt
        suggest(trial, name, member)

    with join(tmp_path / "unbroken") as one:
        unbroken = [t.params for t in one.ask(12)]
    monkeypatch.setattr(jaxtrain.search.study, "_suggest", killed)
    with join(tmp_path / "s") as one:
        first = one.ask(3)
        run(one, first)
    for _ in range(2):  # trial 3, and then 4, which repeats it
        with pytest.raises(KeyboardInterrupt), join(tmp_path / "s") as one:
            one.ask(1)
    with join(tmp_path / "s") as two:
        rest = two.ask(12)
    assert [t.again for t in rest] == [4] + 8 * [None]
    assert [t.params for t in first + rest] == unbroken


def test_an_error_gives_trials_back_too(tmp_path):
    with pytest.raises(ZeroDivisionError), join(tmp_path / "s") as one:
        one.ask(2)
        raise ZeroDivisionError
    with join(tmp_path / "s") as two:
        assert [t.again for t in two.ask(2)] == [0, 1]


DYING = """
import os, signal, sys
from pathlib import Path
from test_study import join
with join(Path(sys.argv[1]), sys.argv[2] or None, trials=6) as study:
    study.ask(3)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_trials_of_a_killed_worker_are_repeated_at_once_and_by_one_worker_only(tmp_path, storage):
    folder = tmp_path / "s"
    command = [sys.executable, "-c", DYING, str(folder), storage or ""]
    assert subprocess.run(command, cwd=Path(__file__).parent).returncode == -9
    with join(folder, storage, trials=6) as one, join(folder, storage, trials=6) as two:
        lost = [t.params for t in one.trials()]
        assert numbers(t for t in one.trials() if t.state == "running") == [0, 1, 2]
        assert one.sweep() == [0, 1, 2] and two.sweep() == []
        first, second = one.ask(4), two.ask(9)
        again = [t for t in first + second if t.again is not None]
        assert [t.params for t in again] == lost and len(first + second) == 6
        run(one, first)
        run(two, second)
        assert one.is_done and sum(t.state == "complete" for t in one.trials()) == 6


def test_a_worker_that_dies_between_losing_and_repeating_a_trial_loses_nothing(tmp_path):
    with join(tmp_path / "s", trials=2) as one, join(tmp_path / "s", trials=2) as two:
        (asked,) = one.ask(1)
        one._lose(asked.number)  # and here it is killed
        one._mine.clear()
        assert two.left == 1 and not two.is_done
        two.sweep()
        assert [t.again for t in two.ask(2)] == [0, None]


def test_two_that_repeat_the_same_lost_trial_run_it_once(tmp_path, storage):
    with ExitStack() as stack:
        one, two = (stack.enter_context(join(tmp_path / "s", storage, trials=2)) for _ in range(2))
        (asked,) = one.ask(1)
        one._lose(asked.number)
        one._mine.clear()
        for study in (one, two):  # both saw it before the other repeated it
            study._study.enqueue_trial(dict(asked.params), user_attrs={"again": 0, "asked": dict(asked.params)})
        first, second = one.ask(1), two.ask(5)
        assert [t.again for t in first + second] == [0, None]
        run(one, first)
        run(two, second)
        assert one.is_done and [t.state for t in one.trials()].count("surplus") == 1


def test_a_worker_elsewhere_is_waited_for_and_then_its_trials_are_repeated(tmp_path):
    clock = [0.0]
    with join(tmp_path / "s") as one, join(tmp_path / "s", now=lambda: clock[0]) as two:
        elsewhere = Address("another machine", "/nowhere")
        one._study.set_user_attr(f"address:{one.worker.name}", list(elsewhere))
        (asked,) = one.ask(1)
        assert two.sweep() == []
        clock[0] = 100.0
        one.beat(1)
        assert two.sweep() == []
        clock[0] = 300.0
        assert two.sweep() == [0]
        # It was only slow. Its result comes too late, and it is told so.
        assert not one.finish(asked.number, "complete", 0.5)
        assert [t.again for t in two.ask(1)] == [0]


def test_outcomes_are_read_back_as_they_were_told(tmp_path, storage):
    with join(tmp_path / "s", storage, trials=3) as study:
        complete, pruned, diverged = study.ask(3)
        study.report(complete.number, 1, 0.4)
        study.report(pruned.number, 1, 0.3)
        study.finish(complete.number, "complete", 0.5, epochs=9, steps=81, num_steps=81, seconds=1.5)
        study.finish(pruned.number, "pruned", epochs=1)
        study.finish(diverged.number, "diverged")
        assert study.is_done
        told = study.trials()
    assert [t.state for t in told] == ["complete", "pruned", "diverged"]
    assert [t.value for t in told] == [0.5, 0.3, None]
    assert (told[0].epochs, told[0].steps, told[0].seconds, told[0].rungs) == (9, 81, 1.5, {1: 0.4})


def test_more_trials_may_be_asked_for_later(tmp_path):
    with join(tmp_path / "s", trials=2) as one:
        run(one, one.ask(9))
        assert one.is_done
    with join(tmp_path / "s", trials=3) as two:
        assert not two.is_done and numbers(two.ask(9)) == [2]


def test_a_folder_that_holds_another_search_is_refused_and_keeps_it(tmp_path, storage):
    with join(tmp_path / "s", storage, described={"space": {"hyper.l1": {"high": 0.1}}}) as one:
        run(one, one.ask(1))
    with pytest.raises(RequestError, match="space.hyper.l1.high is 0.2, was 0.1"):
        with join(tmp_path / "s", storage, described={"space": {"hyper.l1": {"high": 0.2}}}):
            pass


STORAGES = [
    ("postgresql://me:secret@localhost:1/x", (RequestError, WorldError), "storage 'postgresql://me:***@localhost:1/x'"),
    ("nonsense://x", RequestError, "cannot be used"),
    ("://", RequestError, "cannot be used"),
    ("sqlite:////missing/folder/study.db", WorldError, "cannot be reached"),
    ("/missing/folder/study.journal", WorldError, "cannot be opened: no such file or directory"),
]


@pytest.mark.parametrize(("storage", "error", "message"), STORAGES, ids=[s for s, _, _ in STORAGES])
def test_a_storage_that_cannot_be_reached_is_one_sentence_without_a_password(tmp_path, storage, error, message):
    with pytest.raises(error) as raised, join(tmp_path / "s", storage):
        pass
    assert message in str(raised.value) and "secret" not in str(raised.value)
    assert not (tmp_path / "s").exists()


def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary\nyesterday\n")
    with pytest.raises(RequestError, match="no journal of Optuna's"), join(tmp_path / "s", str(tmp_path / "notes.txt")):
        pass
    assert (tmp_path / "notes.txt").read_text() == "dear diary\nyesterday\n"


def test_a_database_that_goes_away_is_the_worlds_fault(tmp_path):
    from sqlalchemy.exc import OperationalError

    with pytest.raises(WorldError, match="cannot be reached"), join(tmp_path / "s"):
        raise OperationalError("select 1", {}, Exception("server closed the connection"))


def test_the_journals_path_is_absolute_for_its_lock_is_a_link_to_it(tmp_path, monkeypatch):
    from optuna.storages.journal import JournalFileBackend

    paths = []
    monkeypatch.chdir(tmp_path)
    init = JournalFileBackend.__init__
    monkeypatch.setattr(JournalFileBackend, "__init__", lambda self, path: (paths.append(path), init(self, path))[1])
    with join(Path("relative")):
        pass
    assert paths == [str(tmp_path / "relative" / "study.journal")]


def test_optuna_is_imported_late():
    code = "import jaxtrain.search.study, jaxtrain.search.findings, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
