"""The report of a run in any state: what it says, that it loads nothing, and what it keeps to itself."""

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from made_runs import leave_pictures, make_run, settings, started, train, val, whole_story

from VoCoCore.errors import SettingsError
from VoCoCore.evaluation.report import write_report


class Page(HTMLParser):
    """Checks nesting and collects text, ids and everything that a browser would load."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.loads, self.words, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self._look(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._look(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def _look(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "data", "action", "poster", "srcset"):
                self.loads.append(value)


def read(run):
    path = write_report(run)
    assert path == run / "report.html"
    source = path.read_text()
    page = Page(source)
    assert not re.search(r"(https?:)?//\w", re.sub(r"base64,[\w+/=\s]+", "", source))
    assert not re.search(r"@import|url\((?!#)", source)
    assert not {"script", "iframe", "link", "object", "embed"} & set(page.tags)
    assert all(value.startswith(("#", "data:image/png")) for value in page.loads)
    assert len(page.ids) == len(set(page.ids))
    for reference in re.findall(r'(?:url\(#|href="#|labelledby=")([\w-]+)', source):
        assert reference in page.ids
    return page


def test_finished_run_says_what_was_learned(tmp_path):
    page = read(leave_pictures(make_run(tmp_path / "run", events=whole_story())))
    assert "learned where in the body a crop comes from" in page.text
    assert "60 %" in page.text and "95 % interval 53 % to 67 %" in page.text and "11 %" in page.text
    assert "finished" in page.text and "of 1,000" in page.text
    assert "volumes held out 12" in page.text and "left out as unusable 2" in page.text
    assert (
        "crops.counts 4 × 4 × 1" in page.text
        and "torch 2.13.0" in page.text
        and "isal not installed" in page.text
    )
    assert page.tags.count("svg") == 3
    assert "predicted" in page.text and "Held-out volume 2" in page.text


def test_run_that_just_began(tmp_path):
    page = read(make_run(tmp_path / "run", "preparing", step=0))
    assert "No held-out volumes were looked at so far" in page.text
    assert "No metrics yet" in page.text and "No pictures yet" in page.text and "Not known yet" in page.text
    assert "The job is not over" in page.text


@pytest.mark.parametrize("events", [[started()], [started(), train(10)], [started(), val(10)]])
def test_first_events_of_a_run(tmp_path, events):
    assert "svg" in read(make_run(tmp_path / "run", "running", events=events)).tags or len(events) == 1


def test_stopped_run_says_that_it_can_go_on(tmp_path):
    page = read(make_run(tmp_path / "run", "stopped", events=whole_story()))
    assert "it can be resumed" in page.text and "The job is not over" not in page.text


def test_failed_run_shows_its_error_alone(tmp_path):
    old = {"type": "error", "kind": "DataError", "message": "an older trouble", "hint": ""}
    new = {
        "type": "error",
        "kind": "EnvironmentFault",
        "message": "the disk is full",
        "hint": "free some space <now>",
    }
    page = read(
        make_run(tmp_path / "run", "failed", events=[started(), old, started(attempt=2), train(10), new])
    )
    assert (
        "EnvironmentFault" in page.text
        and "the disk is full" in page.text
        and "free some space <now>" in page.text
    )
    assert "older trouble" not in page.text


def test_failed_run_without_an_error_event_shows_the_status(tmp_path):
    page = read(make_run(tmp_path / "run", "failed", message="interrupted from the keyboard"))
    assert "interrupted from the keyboard" in page.text


def test_warnings_are_counted_once_each(tmp_path):
    warning = {
        "type": "warning",
        "message": "left out case P0123 Meier: truncated",
        "hint": "voco data check",
    }
    other = {"type": "warning", "message": "left out case P0124: truncated", "hint": "voco data check"}
    page = read(make_run(tmp_path / "run", events=[warning, other, started()]))
    assert page.text.count("left out a case: truncated") == 1 and "(2 times)" in page.text
    assert "Meier" not in page.text


def test_values_that_are_no_numbers(tmp_path):
    holes = [
        train(s, loss=None, loss_prediction="nan", gradient_norm="inf", base_similarity=None)
        for s in (30, 40)
    ]
    odd = [
        val(40, position_accuracy="nan"),
        {"type": "metrics", "step": None, "split": "val", "values": {}},
        {"type": "metrics", "split": "train"},
        {"type": "metrics", "step": 5, "split": "train", "values": "x"},
    ]
    page = read(
        make_run(tmp_path / "run", events=[started(), train(10), *holes, train(50), *odd[1:], odd[0]])
    )
    assert "answers are not numbers" in page.text
    assert ">nan<" not in (tmp_path / "run" / "report.html").read_text().lower()


def test_only_numbers_missing(tmp_path):
    page = read(make_run(tmp_path / "run", events=[started(), train(10, loss=None), val(10, loss=None)]))
    assert "learned where" in page.text


def test_an_undone_attempt_leaves_no_trace(tmp_path):
    events = [started(), val(900, position_accuracy=0.97), started(attempt=2, step=400), val(500)]
    page = read(make_run(tmp_path / "run", events=events))
    assert "62 %" in page.text and "0.970" not in page.text and "2 attempts" in page.text


def test_lost_run_is_called_lost(tmp_path):
    run = make_run(tmp_path / "run", "running", events=[started(), train(10)])
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "heartbeat": time.time() - 10 * 86_400}))
    page = read(run)
    assert "lost" in page.text and "The job is not over" not in page.text


def test_the_report_of_a_long_run_stays_small(tmp_path):
    events = [started(), *(train(step) for step in range(8_000)), *(val(s) for s in range(0, 8_000, 40))]
    run = leave_pictures(make_run(tmp_path / "run", events=events), volumes=4)
    page = read(run)
    assert (run / "report.html").stat().st_size < 2_000_000
    assert "40 of 200" in page.text


@pytest.mark.parametrize("damage", ["settings.json", "environment.json", "validation/latest.npz"])
def test_a_damaged_file_costs_its_own_section_only(tmp_path, damage):
    run = leave_pictures(make_run(tmp_path / "run", events=whole_story()))
    (run / damage).write_bytes((run / damage).read_bytes()[:40])
    assert "learned where in the body" in read(run).text


def test_pictures_with_other_shapes_than_agreed_are_left_out(tmp_path):
    run = leave_pictures(make_run(tmp_path / "run", events=whole_story()))
    with np.load(run / "validation" / "latest.npz") as kept:
        arrays = dict(kept)
    np.savez(run / "validation" / "latest.npz", **{**arrays, "labels": arrays["labels"][:, :, :5]})
    assert "No pictures yet" in read(run).text


def test_names_and_paths_stay_private(tmp_path):
    secret = tmp_path / "Anna Meier 1970" / "run"
    environment = {
        "hostname": "ward7",
        "packages": {"torch": "2.13.0"},
        "parent": "/mnt/x/Anna_Meier/encoder.safetensors",
    }
    events = [
        started(),
        {
            "type": "warning",
            "message": "/mnt/x/Anna Meier/scan 1.nii.gz is odd",
            "hint": r"see C:\Users\anna\log.txt",
        },
        {
            "type": "error",
            "kind": "DataError",
            "message": "Anna_Meier.nii.gz has another grid",
            "hint": "look in ~/anna",
        },
    ]
    run = make_run(secret, "failed", events=events, environment=environment)
    read(run)
    source = (run / "report.html").read_text()
    assert not re.search(r"anna|meier|ward7|/home|/mnt", source, re.IGNORECASE)
    assert str(tmp_path) not in source and "[file]" in source


def test_a_report_says_that_it_shows_patients_where_it_does(tmp_path):
    run, shows = make_run(tmp_path / "run", events=whole_story()), "shows slices of patients' images"
    assert shows not in read(run).text
    assert shows in read(leave_pictures(run)).text


def test_changed_settings_are_marked(tmp_path):
    run = make_run(tmp_path / "run", settings_dict=settings(**{"optim.lr": 5e-4}))
    page = read(run)
    marked = re.findall(r"<code>([\w.]+)</code></th><td><strong>", (run / "report.html").read_text())
    assert marked == ["optim.lr"] and "optim.lr 0.0005" in page.text


def test_no_run_no_report(tmp_path):
    with pytest.raises(SettingsError):
        write_report(tmp_path)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def test_report_opens_offline_in_a_browser(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    report = write_report(leave_pictures(make_run(tmp_path / "run", events=whole_story())))
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--hide-scrollbars",
        "--window-size=1200,1600",
        f"--screenshot={tmp_path / 'shot.png'}",
        report.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    from matplotlib.image import imread

    shot = imread(tmp_path / "shot.png")[..., :3]
    assert shot.shape[:2] == (1600, 1200)
    assert shot.mean() > 0.6 or shot.mean() < 0.4  # a page, light or dark, not a grey error
    colourful = np.ptp(shot, axis=-1) > 0.3
    assert colourful.mean() > 0.001  # the curves' and crops' colours
