"""A trial's log: the same lines from its journal and from MLflow."""

from place import Place

from orchestrator.sink import RunSink
from orchestrator.trial_log import follow, lines, traceback_of, trial_records
from workers.journal import Journal, Record

START_MS = 1_760_000_000_000


def recorded(place: Place) -> str:
    """A trial of two epochs that diverged, in its folder and in MLflow; its run id."""
    trial = place.sweep.trials()[0]
    run_id = place.new_run(trial)
    records = [Record("state", "state", text="running", time_ms=START_MS)]
    for step in (1, 2):
        time_ms = START_MS + 60_000 * step
        records += [
            Record("metric", "train/loss", value=2.0 / step, step=step, time_ms=time_ms),
            Record("metric", "train/error", value=0.5 / step, step=step, time_ms=time_ms + 1),
        ]
    records += [
        Record("tag", "error_class", text="diverged", time_ms=START_MS + 130_000),
        Record("tag", "error", text="DivergedError: the loss is nan", time_ms=START_MS + 130_000),
        Record("state", "state", text="failed", time_ms=START_MS + 130_001),
    ]
    Journal(place.folder(trial)).add(records)
    place.folder(trial).write("error.txt", b"Traceback: boom")
    RunSink(place.store.uri, run_id).send(records)
    return run_id


def test_lines_say_what_happened_in_its_order(place: Place) -> None:
    run = place.run(recorded(place))
    texts = [line.split("  ", 1)[1] for line in lines(trial_records(place.sweep, place.store, run))]
    assert texts == [
        "running",
        "epoch 1  train  loss 2  error 0.5",
        "epoch 2  train  loss 1  error 0.25",
        "error_class diverged  error DivergedError: the loss is nan",
        "failed",
    ]
    assert traceback_of(place.sweep, run) == "Traceback: boom"


def test_mlflow_alone_tells_the_same(place: Place) -> None:
    run = place.run(recorded(place))
    from_journal = lines(trial_records(place.sweep, place.store, run))
    place.folder(place.sweep.trials()[0]).delete("journal.jsonl")
    from_store = lines(trial_records(place.sweep, place.store, run))
    assert from_store[:2] == from_journal[1:3]
    assert [line.split("  ", 1)[1] for line in from_store[2:]] == [
        "error_class diverged  error DivergedError: the loss is nan",
        "failed",
    ]


def test_following_a_trial_that_has_ended_ends(place: Place) -> None:
    run = place.run(recorded(place))
    assert list(follow(place.sweep, place.store, run)) == lines(trial_records(place.sweep, place.store, run))
