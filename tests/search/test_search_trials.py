import json
import logging
import platform
import re
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
import ray
import search_samples
import torch
from samples import digit_splits, hyperparameters, ingredient, search_config
from search_samples import FolderRecorder

from pipeline.errors import SearchError, TrialRejected
from pipeline.evaluation import accuracy, predict
from pipeline.finetune import TRAINERS, Finetuned, Trainer, finetune
from pipeline.gauges import GAUGES
from pipeline.search.progress import Progress
from pipeline.search.sampling import sample_trials
from pipeline.search.storage import Storage
from pipeline.search.trial import TrialContext, _finetuned, give_back_memory, outcome, paced, save_state
from pipeline.search.tuner import run_trials
from pipeline.weights import load_weights, read_weights, unique_state

EPOCHS = 2
PLANTED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD")
FOUR = {index: hyperparameters(lr=10.0 ** -(index + 2)) for index in range(4)}


def context(tmp_path, num_trials, faults=None, **settings):
    distributions = {"epochs": EPOCHS, "batch_size": 64, "lr": {"loguniform": [1e-3, 1e-2]}, "mixup": 0}
    distributions |= {"augmentation": "minimal"} | settings.pop("distributions", {})
    config = search_config(num_trials=num_trials, distributions=distributions, **settings)
    torch.manual_seed(0)
    recorder = FolderRecorder(tmp_path / "records", faults or {})
    recorder.folder.mkdir(exist_ok=True)
    return TrialContext(
        name="sweep",
        trials=tuple(sample_trials(config, seed=0)),
        build_model=search_samples.build,
        splits=ray.put(digit_splits(train=128)),
        theta0=ray.put(unique_state(search_samples.build())),
        theta0_sha256="f" * 64,
        settings=config,
        use_gpu=False,
        reserved=float(config.cpus_per_trial),
        storage=Storage(str(tmp_path / "trials")),
        experiments=tmp_path / "tune",
        recorder=recorder,
    )


def test_a_trainer_that_returns_no_score_by_the_metric_is_told_of(session_ray, tmp_path, monkeypatch):
    def train(*args, **kwargs):
        return Finetuned(0.5, 0.5, 0.5, images_seen=1, peak_memory_bytes=None)

    monkeypatch.setitem(TRAINERS, "older", Trainer(train))
    made = context(tmp_path, 1, trainer="older")
    splits = replace(digit_splits(train=128), metric="macro_f1")
    with pytest.raises(TrialRejected, match=r"trainer 'older' returns no val_score by data.metric 'macro_f1'"):
        _finetuned(replace(made, splits=ray.put(splits)), made.trials[0], lambda record, state: None)


@pytest.fixture(scope="module")
def troubled(session_ray, tmp_path_factory):
    """A sweep in which trials fail in every way: what was recorded, and what was logged."""
    folder = tmp_path_factory.mktemp("sweep")
    faults = {1: "once", 2: "always", 3: "killed once", 4: "killed"}
    made = context(folder, 6, faults, max_failures=1)
    diverging = made.trials[5]
    trials = (*made.trials[:5], type(diverging)(5, diverging.hyper.model_copy(update={"lr": 1e30})))
    made = replace(made, trials=trials)
    logger, messages = logging.getLogger("pipeline.search.progress"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as environment:
        for name in PLANTED:
            environment.setenv(name, f"planted-{name}")
        run_trials(made, [], "first")
    logger.removeHandler(handler)
    rows = sorted(made.recorder.rows(), key=lambda row: row.trial_index)
    return made, rows, messages


def test_every_trial_is_recorded_once_and_the_sweep_goes_on_after_failures(troubled):
    _, rows, _ = troubled
    assert [row.trial_index for row in rows] == list(range(6))
    assert [row.status for row in rows] == ["finished", "finished", "failed", "finished", "failed", "rejected"]
    assert all((row.reason is None) == (row.status == "finished") for row in rows)


def test_credentials_of_the_driver_are_in_no_log_of_ray(troubled):
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    logs = [path for path in session.rglob("*") if path.is_file()]
    assert any(path.name == "runtime_env_agent.log" for path in logs)
    assert [path.name for path in logs if b"planted-" in path.read_bytes()] == []


def test_a_finished_trial_is_recorded_as_it_was_measured(troubled):
    made, rows, _ = troubled
    row, splits = rows[0], digit_splits(train=128)
    model = search_samples.build()
    model.load_state_dict(read_weights(made.recorder.folder / "0.safetensors"))
    images, labels = splits.fit.tensors()
    assert row.val_accuracy == accuracy(predict(model, images, "cpu"), labels)
    assert row.images_seen == EPOCHS * 128
    assert (row.attempts, row.device, row.theta0_sha256) == (1, "cpu", "f" * 64)
    assert row.gpu_hours > 0
    assert row.model_dump(include=set(type(made.trials[0].hyper).model_fields)) == made.trials[0].hyper.model_dump()


def test_a_trial_is_shown_from_its_beginning_epoch_by_epoch(troubled):
    made, _, _ = troubled
    for index in (0, 1):
        begun = (made.recorder.folder / f"begun-{index}").read_text()
        assert begun == made.trials[index].hyper.model_dump_json()
    assert (made.recorder.folder / "epochs-0").read_text().split() == ["1", "2"]


@pytest.mark.parametrize("index", [1, 3], ids=["exception", "os._exit"])
def test_a_trial_that_fails_once_goes_on_from_its_last_epoch(troubled, index):
    made, rows, messages = troubled
    assert rows[index].attempts == 2
    assert made.recorder.uploads(index) == 2
    assert rows[index].images_seen == EPOCHS * 128
    assert made.storage_of(made.trials[index]).names() == []  # its unfinished state is not needed any more
    assert any(re.match(rf" +{index} .* \d\d\.\d\d ", message) for message in messages)


@pytest.mark.parametrize("index", [2, 4], ids=["exception", "os._exit"])
def test_a_trial_that_always_fails_is_recorded_with_reason_and_cost(troubled, index):
    made, rows, messages = troubled
    row = rows[index]
    assert row.attempts == 2  # max_failures 1
    assert made.recorder.uploads(index) == 2
    assert row.gpu_hours > 0
    assert (row.sha256, row.path, row.val_accuracy) == (None, None, None)
    assert row.reason
    assert len(row.reason) <= 500
    assert len(row.reason.splitlines()) == 1
    assert any(re.match(rf" +{index} .* failed .*{re.escape(row.reason)}$", message) for message in messages)


def test_the_reason_of_a_failed_trial_tells_what_happened(troubled):
    _, rows, _ = troubled
    assert "the registry is away for good" in rows[2].reason
    assert "died" in rows[4].reason or "exit" in rows[4].reason.lower()


def test_an_attempt_that_is_repeated_is_told_in_one_line(troubled):
    _, _, messages = troubled
    told = [message for message in messages if message.startswith("search: an attempt of trial ")]
    assert sorted(re.match(r"search: an attempt of trial (\d) failed \(", line)[1] for line in told) == list("1234")
    assert all(line.endswith("; trying again") and "\n" not in line for line in told)


@pytest.mark.system
def test_trials_that_share_a_gpu_without_room_for_them_are_given_more_of_one(session_ray, tmp_path, caplog):
    caplog.set_level("INFO", "pipeline.search")
    made = replace(context(tmp_path, 3, {1: "no room once", 2: "no room"}), reserved=0.3)
    run_trials(made, [], "crowded")
    rows = sorted(made.recorder.rows(), key=lambda row: row.trial_index)
    assert [(row.status, row.attempts) for row in rows] == [("finished", 1), ("finished", 2), ("rejected", 3)]
    assert rows[2].reason == "cpu is too small for it: out of memory"
    said = [message for message in caplog.messages if "ran out of memory" in message]
    assert said == [
        "search: a GPU that trials share ran out of memory (trial 1, 2); going on with 0.6 of a GPU for each",
        "search: a GPU that trials share ran out of memory (trial 2); going on with 1 of a GPU for each",
    ]


def test_a_rejected_trial_is_not_tried_again(troubled):
    made, rows, messages = troubled
    assert rows[5].attempts == 1
    assert made.recorder.uploads(5) == 0
    assert "not finite in epoch 1 (learning rate 1e+30)" in rows[5].reason
    assert any(re.match(r" +5 .* rejected .*not finite in epoch 1", message) for message in messages)


def test_progress_is_a_table_that_counts_to_the_end(troubled):
    _, rows, messages = troubled
    assert sum(message.startswith("search: the same in all trials: epochs 2, ") for message in messages) == 1
    table = [
        message for message in messages if not message.startswith(("search: ", " " * len("search: ") + "schedule"))
    ]
    above, headings, *lines = table
    assert above.split() == ["learning", "weight", "label", "core"]
    assert headings.split()[:4] == ["trial", "rate", "decay", "smoothing"]
    assert len(lines) == 6
    assert all(re.search(r" \d/6 +\d+ (s|min)$", line[: len(headings)]) for line in lines)
    assert lines[-1][: len(headings)].split()[-3:] == ["6/6", "0", "s"]
    best = max(row.val_accuracy for row in rows if row.val_accuracy)
    assert f" {100 * best:.2f} " in lines[-1]


def test_a_resumed_sweep_counts_what_was_recorded_before(caplog):
    progress = Progress([ingredient(0, val_accuracy=0.95), ingredient(1)], FOUR, sweep="resumed")
    with caplog.at_level(logging.INFO, "pipeline.search.progress"):
        progress.tell(ingredient(2, val_accuracy=0.5))
    cells = caplog.messages[-1].split()
    assert {"50.00", "95.00", "3/4"} <= set(cells)


def test_each_minute_a_sweep_tells_what_runs(session_ray, caplog, monkeypatch):
    class Running:
        def __init__(self, number):
            self.config = {"trial": number}

    progress = Progress([], dict.fromkeys(range(12), hyperparameters(epochs=3)), sweep="silent")
    with caplog.at_level(logging.INFO, "pipeline.search.progress"):
        progress.on_step_end(0, [])
        for number in range(10):
            progress.on_trial_start(0, [], Running(number))
        progress.on_step_end(1, [])
        progress.on_step_end(2, [])  # told a moment ago
        assert caplog.messages == ["search: trials 0, 1, 2, 3, 4, 5, 6, 7 and 2 more begin"]
        caplog.clear()
        monkeypatch.setattr("pipeline.search.progress._EACH", -1.0)
        progress.on_trial_result(0, [], Running(1), {"epoch": 1})
        progress.on_trial_result(0, [], Running(2), {"epoch": 3})
        progress.on_step_end(3, [])
        running = [f"{number} (epoch {epoch} of 3)" for number, epoch in enumerate([1, 2, 3, 1, 1, 1, 1, 1])]
        told = re.sub(r"\d+ s left", "0 s left", caplog.messages[0])
        assert told == f"search: after 0 min: 0 of 12 ended, 0 s left, running: {', '.join(running)} and 2 more"


def test_the_time_left_is_that_of_the_epochs_left(session_ray, monkeypatch):
    class Running:
        def __init__(self, number):
            self.config = {"trial": number}

    now = 0.0
    monkeypatch.setattr("pipeline.search.progress.time.monotonic", lambda: now)
    trials = {index: hyperparameters(epochs=epochs) for index, epochs in enumerate((4, 2, 10, 8))}
    is_ending = False
    progress = Progress([ingredient(0)], trials, "epochs", lambda: is_ending)
    progress.on_trial_start(0, [], Running(1))
    progress.on_trial_start(0, [], Running(2))
    assert progress._seconds_left() is None
    now = 30.0
    progress.on_trial_result(0, [], Running(2), {"epoch": 7})  # goes on from its sixth, of an earlier call
    assert progress._seconds_left() == pytest.approx(30 * (2 + 3 + 8))
    now = 90.0
    progress.tell(ingredient(1))
    assert progress._seconds_left() == pytest.approx(30 * (3 + 8))
    is_ending = True
    assert progress._seconds_left() == pytest.approx(30 * 3), "no more trials begin"


def test_a_trial_that_waits_to_be_tried_again_does_not_run(session_ray, caplog, monkeypatch, tmp_path):
    class Lost:
        config, error_file = {"trial": 1}, str(tmp_path / "error")

    (tmp_path / "error").write_text("Failure # 1\nActorDiedError: the worker was lost\n")
    monkeypatch.setattr("pipeline.search.progress._EACH", -1.0)
    progress = Progress([], dict.fromkeys(range(2), hyperparameters(epochs=3)), sweep="again")
    progress.on_trial_start(0, [], Lost())
    progress.tell(ingredient(0))
    with caplog.at_level(logging.INFO, "pipeline.search.progress"):
        progress.on_trial_recover(0, [], Lost())
        progress.on_step_end(1, [])
        assert caplog.messages[-1].endswith(" left, running: none, to be tried again: 1")
        progress.on_trial_start(2, [], Lost())
        progress.on_step_end(3, [])
        assert caplog.messages[-1].endswith(" left, running: 1 (epoch 1 of 3)")


def test_prometheus_finds_the_sweep_at_rays_exporter(session_ray):
    progress = Progress([ingredient(0, val_accuracy=0.75, select_accuracy=0.5)], FOUR, sweep="watched")
    progress.tell(ingredient(1, status="failed", val_accuracy=None, gpu_hours=0.25))
    progress.tell(ingredient(2, val_accuracy=0.5, select_accuracy=0.9))
    (port,) = {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}
    wanted = {
        ("trials", "finished"): 2.0,
        ("trials", "failed"): 1.0,
        ("trials", "running"): 0.0,
        ("trials", "waiting"): 1.0,
        ("sweep_gpu_hours", "CPU core hours"): 1.25,
        ("best_trial_accuracy", "fit"): 0.75,
        ("best_trial_accuracy", "select"): 0.5,
    }
    found, deadline = {}, 60
    while not wanted.items() <= found.items() and (deadline := deadline - 1):
        time.sleep(1)
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            lines = [line for line in page.read().decode().splitlines() if 'sweep="watched"' in line]
        series = [re.fullmatch(r"ray_(\w+)\{(.*)\} (\S+)", line) for line in lines]
        found = {(one[1], *re.findall(r'\b(?:status|unit|split)="([^"]*)"', one[2])): float(one[3]) for one in series}
    assert {series: found.get(series) for series in wanted} == wanted
    assert found["seconds_left",] >= 0
    assert {name for name, *_ in found} == GAUGES.keys() - {"soup_accuracy"}


class Watching:
    """Beside a sweep: lets no trial begin at its first looks, and ends it once so many trials have ended."""

    def __init__(self, refusals, most):
        self.refusals, self.most, self.reason, self.looks = refusals, most, None, []

    def look(self, rows):
        self.looks.append(len(rows))
        self.refusals -= 1
        return self.refusals < 0

    def decide(self, rows, under_way, upcoming):
        if len(rows) + len(under_way) >= self.most:
            self.reason = "enough"


def test_what_goes_on_beside_a_sweep_holds_trials_back_and_ends_it(session_ray, tmp_path):
    made = context(tmp_path, 5)
    beside = Watching(refusals=2, most=3)
    run_trials(made, [], "beside", beside)
    rows = made.recorder.rows()
    assert sorted(row.trial_index for row in rows) == [0, 1, 2]  # those under way are not lost
    assert beside.looks[:2] == [0, 0]
    assert sorted(beside.looks) == beside.looks
    # A later call by the same rule runs what had begun, and no other trial.
    storage = made.storage_of(made.trials[4])
    with storage.writing("attempt-000.json") as file:
        file.write(b'{"device": "cpu", "reserved": 1.0, "node": "n", "seconds": 3600.0}')
    again = Watching(refusals=0, most=0)
    again.reason = "enough"
    run_trials(made, rows, "again", again)
    more = made.recorder.rows()[3:]
    assert [row.trial_index for row in more] == [4]
    assert more[0].gpu_hours > 1


def test_trials_without_a_future_end_early_and_are_measured_and_counted(session_ray, tmp_path):
    rates = {"lr": {"choice": [1e-2]}, "epochs": 5}
    made = context(tmp_path, 4, scheduler="asha", keep_stopped=True, distributions=rates)
    poor = [replace(trial, hyper=trial.hyper.model_copy(update={"lr": 1e-9})) for trial in made.trials[2:]]
    made = replace(made, trials=(made.trials[1], *poor), reports=tmp_path / "reports.json")
    # One good trial by itself: of two, either may be the first to report, and so end the other.
    run_trials(replace(made, trials=made.trials[:1]), [], "good")
    assert json.loads(made.reports.read_text())[0][2] > 0.1  # after its first epoch it knows more than chance
    run_trials(made, made.recorder.rows(), "poor")  # are compared with what the earlier call had
    rows = sorted(made.recorder.rows(), key=lambda row: row.trial_index)
    assert [row.status for row in rows] == ["finished", "stopped", "stopped"]
    assert [row.reason for row in rows[1:]] == ["asha stopped it after 1 of 5 epochs"] * 2
    assert [row.images_seen for row in rows] == [640, 128, 128]
    splits = digit_splits(train=128)
    model = search_samples.build()
    model.load_state_dict(read_weights(made.recorder.folder / "2.safetensors"))
    images, labels = splits.select.tensors()
    measured = accuracy(predict(model, images, "cpu"), labels)
    assert rows[1].select_accuracy == measured
    assert rows[1].is_ingredient
    assert rows[1].gpu_hours > 0
    reports = json.loads(made.reports.read_text())
    assert [2, 1, measured] in reports
    without = replace(made, settings=made.settings.model_copy(update={"keep_stopped": False}))
    (tmp_path / "records" / "rows").unlink()
    run_trials(without, rows[:2], "not kept")
    (row,) = made.recorder.rows()
    assert (row.trial_index, row.status, row.sha256, row.is_ingredient) == (3, "stopped", None, False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library gives it back by itself, or never")
def test_memory_that_was_freed_between_what_is_kept_goes_back_to_the_system():
    pieces = [torch.ones(size) for _ in range(2000) for size in (25_000, 10)]  # 100 kB each, and 40 bytes
    kept, full = pieces[1::2], psutil.Process().memory_info().rss
    del pieces
    give_back_memory()
    assert full - psutil.Process().memory_info().rss > 150_000_000
    assert len(kept) == 2000


@pytest.mark.system
def test_a_full_disk_ends_the_sweep_and_fails_no_trial(session_ray, tmp_path):
    made = context(tmp_path, 3, {1: "full"}, max_failures=0)
    with pytest.raises(
        SearchError, match=r"^the disk is full .*No space left on device.*finished ingredients are kept"
    ):
        run_trials(made, [], "full")
    assert sorted(row.trial_index for row in made.recorder.rows()) == [0, 2]
    again = replace(made, recorder=FolderRecorder(made.recorder.folder))
    run_trials(again, made.recorder.rows(), "again")
    rows = {row.trial_index: row for row in made.recorder.rows()}
    assert rows[1].status == "finished"
    assert rows[1].attempts == 2


def test_a_killed_sweep_goes_on_with_what_is_not_recorded(session_ray, tmp_path):
    # What a killed driver leaves behind: the state after an epoch, and the clock of the first attempt.
    made = replace(context(tmp_path, 3), reserved=2.0)
    trial = made.trials[1]
    storage = made.storage_of(trial)
    with storage.writing("attempt-000.json") as file:
        file.write(b'{"seconds": 3600, "device": "cpu", "reserved": 2.0, "node": "10.0.0.7"}')
    splits = digit_splits(train=128)

    def train(on_epoch):
        model = search_samples.build()
        load_weights(model, ray.get(made.theta0), source="theta0")
        finetune(model, splits, trial.hyper, made.settings, device="cpu", on_epoch=on_epoch)
        return model

    def stop(epoch_record, state):
        save_state(storage, state)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stop)
    run_trials(made, [ingredient(0), ingredient(2)], "rest")
    (row,) = made.recorder.rows()
    assert (row.trial_index, row.status, row.attempts) == (1, "finished", 2)
    assert 2 < row.gpu_hours < 2.5  # an hour and some seconds, with two cores reserved
    resumed = read_weights(made.recorder.folder / "1.safetensors")
    for name, value in train(None).state_dict().items():
        assert torch.equal(resumed[name], value), name
    run_trials(made, [ingredient(0), ingredient(1), ingredient(2)], "nothing")
    assert len(made.recorder.rows()) == 1


def test_attempts_with_and_without_a_gpu_are_not_added(session_ray, tmp_path):
    made = context(tmp_path, 1)
    (trial,) = made.trials
    for number, device in enumerate(("NVIDIA H200", "cpu", "NVIDIA H200")):
        with made.storage_of(trial).writing(f"attempt-{number}.json") as file:
            file.write(b'{"seconds": 3600, "device": "%s", "reserved": 2.0, "node": "a"}' % device.encode())
    row = outcome(trial, made, status="failed", reason="gave up")
    assert (row.gpu_hours, row.cpu_core_hours, row.device) == (4.0, 2.0, "NVIDIA H200 and cpu")


def test_tunes_own_failure_says_how_to_go_on(session_ray, tmp_path, monkeypatch):
    def stop(self):
        raise RuntimeError("\nTraceback of Ray\nthe head node was out of memory\n")

    monkeypatch.setattr("ray.tune.Tuner.fit", stop)
    with pytest.raises(
        SearchError, match=r"^the sweep stopped: the head node was out of memory; give the same command"
    ):
        run_trials(context(tmp_path, 1), [], "stopped")


@pytest.mark.parametrize(("seconds", "saved"), [(0, [1, 2, 3, 4, 5, 6]), (1, [1, 2, 3, 4, 5, 6]), (3, [1, 4])])
def test_saving_takes_at_most_a_tenth_of_the_time(seconds, saved):
    now, written = [0.0], []

    def write(state):
        now[0] += seconds
        written.append(state["epoch"])

    save = paced(write, clock=lambda: now[0])
    for epoch in range(1, 7):
        now[0] += 10
        save({"epoch": epoch})
    assert written == saved
