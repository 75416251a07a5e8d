# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""compare_disback.py: bad input, a server that is killed, and a browser that votes."""

import json
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from comparisons import make_folders
from gradio_client import Client
from gradio_client.exceptions import AppError
from script_runs import SCRIPTS

from disback_diffusers.errors import exit_code
from disback_diffusers.study.study import Study


SCRIPT = SCRIPTS / "compare_disback.py"
WORDS = ["A", "B", "--prompts", "p.txt"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: A, B and p.txt, six pairs."""
    make_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.fixture
def fails(folder, monkeypatch, capfd):
    """A function that runs the script where gradio is not installed, and checks its one line and exit code 2."""
    page = "disback_diffusers.study.page"
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, page, raising=False)
    monkeypatch.delattr("disback_diffusers.study.page", raising=False)

    def check(flags, *expected, code=2):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags.split()])
        assert exit_code(runpy.run_path(str(SCRIPT))["main"]) == code
        printed = capfd.readouterr().err
        assert printed.startswith("compare_disback.py: error: ") and printed.count("\n") == 1, printed
        assert [part for part in expected if part not in printed] == [], printed

    return check


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("nowhere B --prompts p.txt", ["nowhere", "No such file", "give a folder"]),
        ("p.txt B --prompts p.txt", ["p.txt", "give a folder"]),
        ("empty B --prompts p.txt", ["empty holds no images"]),
        ("A fewer --prompts p.txt", ["fewer lacks 2 images of A, first 000001.png"]),
        ("fewer A --prompts p.txt", ["fewer lacks 2 images of A, first 000001.png"]),
        ("A B --prompts nowhere.txt", ["--prompts nowhere.txt", "no such file"]),
        ("A B --prompts .", ["--prompts .", "no such file"]),
        ("A B --prompts five.txt", ["--prompts holds 5 prompts", "6 pairs"]),
        ("A B --prompts p.jsonl", ["--prompts p.jsonl", "--caption_column"]),
        ("A B --prompts p.jsonl --caption_column caption", ["gradio is missing"]),
        ("A B --prompts p.txt --num_pairs 0", ["--num_pairs 0", "1 to 6"]),
        ("A B --prompts p.txt --num_pairs 7", ["--num_pairs 7", "1 to 6"]),
        ("A B --prompts p.txt --port 0", ["--port 0"]),
        ("A B --prompts p.txt --port 70000", ["--port 70000"]),
        ("A B --prompts p.txt --host 192.0.2.1", ["--host 192.0.2.1", "choose another"]),
        ("A B --prompts p.txt --rater \x07", ["--rater '\\x07'", "A name has"]),
        ("A B --prompts p.txt --report", ["--output_dir comparison", "leave out --report"]),
        ("A damaged --prompts p.txt", ["damaged/000003.png is no readable image"]),
        ("A B --prompts p.txt --output_dir p.txt", ["--output_dir p.txt", "choose another"]),
        ("A B --prompts p.txt --output_dir other", ["--output_dir other holds another comparison"]),
        ("A B", ["gradio is missing", 'pip install "disback-diffusers[eval]"']),
    ],
)
def test_bad_input(folder, fails, flags, expected):
    (folder / "empty").mkdir()
    shutil.copytree("A", "fewer")
    for name in ("000001.png", "000004.png"):
        (folder / "fewer" / name).unlink()
    shutil.copytree("A", "damaged")
    (folder / "damaged" / "000003.png").write_bytes((folder / "A" / "000003.png").read_bytes()[:60])
    (folder / "five.txt").write_text("a\nb\nc\nd\ne\n")
    (folder / "p.jsonl").write_text('{"caption": "a"}\n' * 6)
    Study("A", "B", list("abcdef"), "other").open()
    fails(flags, *expected)
    assert not (folder / "comparison").exists()


def test_a_port_in_use(fails):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        fails(f"A B --prompts p.txt --port {port}", f"--port {port}", "choose another --port")


# ---------------------------------------------------------------------------------------------------------------------
# A real server


@contextmanager
def served(port, *flags):
    """The script as a process that has begun to serve on this port; killed with -9 at the end."""
    command = [sys.executable, str(SCRIPT), *WORDS, "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{port}/ "), line + process.stdout.read()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def connect(port):
    return Client(f"http://127.0.0.1:{port}/", verbose=False)


def votes(rater):
    with open(f"comparison/votes-{rater}.jsonl") as file:
        return [json.loads(line) for line in file]


def test_votes_over_http_outlive_a_killed_server(folder, port):
    with served(port):
        ann, bob = connect(port), connect(port)
        with pytest.raises(AppError, match="1 to 80 printable"):
            ann.predict(" ", api_name="/start")
        ticket = ann.predict("ann", api_name="/start")[0]
        tickets = [ticket]
        for choice in ("left", "right", "tie"):
            tickets.append(ann.predict(tickets[-1], api_name=f"/{choice}")[0])
        bob.predict(bob.predict("bob", api_name="/start")[0], api_name="/tie")
        other_tab = bob.predict(tickets[1], api_name="/left")  # a vote on a pair that ann has judged
        assert json.loads(other_tab[0])["position"] == 3
        assert [vote["choice"] for vote in votes("ann")] == ["left", "right", "tie"]
    assert [vote["choice"] for vote in votes("ann")] == ["left", "right", "tie"]
    with served(port) as process:
        ann = connect(port)
        assert json.loads(ann.predict("ann", api_name="/start")[0])["position"] == 3
        ticket = tickets[-1]  # of the page that was open when the server was killed
        for choice in ("left", "right", "tie"):
            ticket, page, *_ = ann.predict(ticket, api_name=f"/{choice}")
        assert ticket == "" and "Thank you" in page
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "Traceback" not in printed
    assert [vote["choice"] for vote in votes("ann")] == ["left", "right", "tie"] * 2
    assert len({vote["pair"] for vote in votes("ann")}) == 6
    assert [vote["choice"] for vote in votes("bob")] == ["tie"]
    run = subprocess.run([sys.executable, str(SCRIPT), *WORDS, "--report"], capture_output=True, text=True, check=True)
    table = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines() if line}
    assert (table["ann"][0], table["bob"][0], table["all"][0]) == ("6", "1", "7")
    assert printed.endswith(run.stdout)


# ---------------------------------------------------------------------------------------------------------------------
# A real browser


CHROMIUM = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,900",
]
COMPLETE = "return [...document.querySelectorAll('.pair img')].filter((image) => image.complete).length == 2"
SHOWN = """
const colours = [...document.querySelectorAll(".pair img")].map((image) => {
  const canvas = document.createElement("canvas");
  canvas.getContext("2d").drawImage(image, 0, 0);
  return [...canvas.getContext("2d").getImageData(0, 0, 1, 1).data];
});
return {colours, prompt: document.querySelector(".prompt").innerText};
"""


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


class Rater:
    """Somebody at the browser, who notes what is shown and clicked."""

    def __init__(self, browser, port):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.address = browser, f"http://127.0.0.1:{port}/"
        self.wait = WebDriverWait(browser, 60, poll_frequency=0.02)
        self.noted = []

    def find(self, selector):
        return self.wait.until(lambda browser: browser.find_elements("css selector", selector))[0]

    def begin(self, name):
        self.browser.get(self.address)
        self.find("#name input, #name textarea").send_keys(name)
        self.find("#name button").click()

    def until(self, progress):
        """Wait until the page says this."""
        words = "return document.querySelector('.progress, .thanks')?.innerText"
        self.wait.until(lambda browser: progress in (browser.execute_script(words) or "").replace("\xa0", " "))

    def look(self):
        """Number of the pair, and whether A (red) is on the left; both colours and the prompt must fit it."""
        self.wait.until(lambda browser: browser.execute_script(COMPLETE))
        shown = self.browser.execute_script(SHOWN)
        (left, right), number = shown["colours"], shown["colours"][0][1]
        assert sorted([left[:3], right[:3]]) == [[0, number, 200], [200, number, 0]]
        assert shown["prompt"] == f"thing <{number}> & ${{x}}"
        return number, left[0] == 200

    def vote(self, choice, key=None):
        self.noted.append((*self.look(), choice))
        if key:
            self.find("body").send_keys(key)
        else:
            self.find(f"#{choice}").click()


@pytest.mark.slow
def test_fifty_votes_in_a_browser(tmp_path, monkeypatch, browser, port):
    from selenium.webdriver.common.keys import Keys

    make_folders(tmp_path / "study", n=50)
    monkeypatch.chdir(tmp_path / "study")
    keys = {"left": Keys.ARROW_LEFT, "tie": Keys.ARROW_DOWN, "right": Keys.ARROW_RIGHT}
    chance, rater = random.Random(0), Rater(browser, port)
    with served(port):
        rater.begin("Ann B")
        for n in range(20):
            rater.until(f"{n + 1} of 50")
            rater.vote(chance.choice(list(keys)))
        rater.until("21 of 50")
    with served(port):
        rater.begin("ann")  # somebody else
        rater.until("1 of 50")
        rater.begin("Ann B")
        for n in range(20, 50):
            rater.until(f"{n + 1} of 50")
            choice = chance.choice(list(keys))
            rater.vote(choice, keys[choice] if n % 3 == 0 else None)
        rater.until("Thank you")
    (file,) = (tmp_path / "study" / "comparison").glob("votes-*.jsonl")
    cast = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(int(vote["pair"][:6]), vote["a_side"] == "left", vote["choice"]) for vote in cast] == rater.noted
    assert sorted(number for number, *_ in rater.noted) == list(range(50))
    assert requested(browser) == {f"127.0.0.1:{port}"}


def requested(browser):
    """Hosts that pages have asked for anything, by the browser's own log, but for what the page's policy held back."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    failed = [event["params"] for event in events if event["method"] == "Network.loadingFailed"]
    held = {event["requestId"] for event in failed if event.get("blockedReason") == "csp"}
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [event["request"]["url"] for event in sent if event["requestId"] not in held]
    return {urlsplit(url).netloc for url in urls if url.startswith(("http", "ws"))}


@pytest.mark.slow
def test_two_clicks_at_once_are_one_vote(folder, browser, port):
    rater = Rater(browser, port)
    with served(port, "--rater", "ann"):
        browser.get(rater.address)
        for n in range(6):
            rater.until(f"{n + 1} of 6")
            rater.noted.append(rater.look())
            rater.find("#left")
            browser.execute_script("for (const id of ['left', 'right', 'left']) document.getElementById(id).click()")
        rater.until("Thank you")
    assert [(int(vote["pair"][:6]), vote["a_side"] == "left") for vote in votes("ann")] == rater.noted
