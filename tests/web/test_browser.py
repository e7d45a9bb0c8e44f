"""`snnfast web` in a real browser: from the first page to the curve, a stop, a resume, a bad upload, two users at once, files that nobody may see.

`make test-web` installs Gradio and Playwright; the browser is Debian's chromium.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import snnfast

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])
ROOT = Path(__file__).parents[2]
SECONDS = 90_000  # milliseconds that a page may take


class Web:
    """A server in a process of its own."""

    def __init__(self, folder, *options):
        self.folder, self.log = folder, folder / "server.log"
        self.command = [sys.executable, "-m", "snnfast", "web", "--workspace", str(folder / "ws"), *options]
        self.start()

    def start(self):
        env = dict(os.environ, PYTHONPATH=str(ROOT))
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=env, stdout=open(self.log, "w"), stderr=subprocess.STDOUT)
        for _ in range(300):
            found = re.search(r"http://\S+?/", self.log.read_text())
            if found:
                self.url = found[0]
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def end(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self.log.read_text()

    def status(self, path):
        try:
            return urllib.request.urlopen(self.url + path).status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module", autouse=True)
def installed(request):
    if MISSING:
        told = f"{', '.join(MISSING)} is not installed: make test-web"
        pytest.fail(told) if request.config.getoption("--browser") else pytest.skip(told)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    server = Web(tmp_path_factory.mktemp("web"))
    yield server
    if server.process.poll() is None:
        server.process.kill()


@pytest.fixture
def page(browser, web):
    context = browser.new_context(viewport=dict(width=1400, height=1300), accept_downloads=True)
    page = context.new_page()
    page.goto(web.url)
    page.wait_for_selector("#Train-begin")
    yield page
    context.close()


def fill(page, name, value):
    page.locator(f"#{name} textarea, #{name} input").first.fill(value)


def choose(page, name, text):
    page.locator(f"#{name} input").click()
    page.locator("[role=option]").filter(has_text=text).first.click()


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def state(page, name, pattern):
    page.wait_for_function(f"document.querySelector('#{name}-state')?.innerText.match(/{pattern}/)", timeout=SECONDS)
    return page.locator(f"#{name}-state").inner_text()


def train(page, epochs="1"):
    fill(page, "Train-width", "0.0625")
    fill(page, "Train-first", epochs)
    fill(page, "Train-second", "")
    page.click("#Train-begin")


def test_from_the_first_page_to_the_curve(page, tmp_path):
    train(page)
    told = state(page, "Train", "is (done|failed)")
    assert "is done" in told, page.locator("#Train-log textarea").input_value()
    run = re.search(r"Run (\d+)", told)[1]

    tab(page, "Evaluate")
    choose(page, "Evaluate-source", f"run {run}:")
    fill(page, "Evaluate-T", "16")
    fill(page, "Evaluate-images", "60")
    page.click("#Evaluate-begin")
    told = state(page, "Evaluate", "is (done|failed)")
    assert "is done" in told
    page.wait_for_selector("#Evaluate-curve img", timeout=SECONDS)
    page.wait_for_selector("#Evaluate-pictures img", timeout=SECONDS)
    assert "Accuracy of 60 images" in page.locator("#Evaluate-log textarea").input_value()
    first = re.search(r"Run (\d+)", told)[1]
    choose(page, "Evaluate-method", "cos")
    page.click("#Evaluate-begin")
    state(page, "Evaluate", f"Run {int(first) + 1}, .*is done")

    tab(page, "Compare")
    for number in (int(first), int(first) + 1):
        choose(page, "Compare-runs", f"run {number}:")
    page.keyboard.press("Escape")
    page.click("#Compare-begin")
    assert "is done" in state(page, "Compare", "is (done|failed)")
    page.wait_for_selector("#Compare-table [role=gridcell]", timeout=SECONDS)

    tab(page, "Convert")
    choose(page, "Convert-source", f"run {run}:")
    fill(page, "Convert-T", "8")
    fill(page, "Convert-images", "32")
    page.click("#Convert-begin")
    assert "is done" in state(page, "Convert", "is (done|failed)")
    assert "tried" in page.locator("#Convert-log textarea").input_value()
    with page.expect_download(timeout=SECONDS) as download:
        page.locator("#Convert-download").click()
    download.value.save_as(tmp_path / "network.pt")
    snn = snnfast.load_checkpoint(tmp_path / "network.pt")
    assert snn(snnfast.data.load("digits").test[0][0][None], T=8).shape == (1, 10)

    tab(page, "Records")
    number = re.search(r"Run (\d+)", state(page, "Convert", "is done"))[1]
    page.locator("#Records-table [role=gridcell]").filter(has_text=re.compile(rf"^\s*{number}\s*$")).first.click()
    with page.expect_download(timeout=SECONDS) as download:
        page.locator("#Records-network").click()
    download.value.save_as(tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "network.pt").read_bytes()

    tab(page, "Train")
    choose(page, "Train-earlier", f"run {run}:")
    choose(page, "Train-optimiser", "adamw")
    train(page)
    told = state(page, "Train", rf"Run (?!{run},)\d+, .*is (done|failed)")
    assert "is failed" in told and "--optimiser adamw wants its own --lr" in told
    fill(page, "Train-lr", "0.001")
    page.click("#Train-begin")
    assert "is done" in state(page, "Train", rf"Run (?!{run},|{re.search(r'Run ([0-9]+)', told)[1]},)\d+, .*is (done|failed)")

    tab(page, "Diagnose")
    choose(page, "Diagnose-source", f"run {run}:")
    fill(page, "Diagnose-T", "8")
    page.click("#Diagnose-begin")
    assert "is done" in state(page, "Diagnose", "is (done|failed)")
    page.wait_for_selector("#Diagnose-layers [role=gridcell]", timeout=SECONDS)

    tab(page, "Records")
    page.locator("#Records-table [role=gridcell]").filter(has_text=re.compile(rf"^\s*{first}\s*$")).first.click()
    state(page, "Records", f"Run {first}, eval")
    page.click("#Records-pack")
    with page.expect_download(timeout=SECONDS) as download:
        page.locator("#Records-download").click()
    download.value.save_as(tmp_path / "run.zip")
    import zipfile

    names = zipfile.ZipFile(tmp_path / "run.zip").namelist()
    assert {"out/report.json", "out/accuracy.png", "output.txt"} <= set(names)


def test_stop_resume_and_a_server_that_was_started_again(page, web, browser):
    train(page, "400")
    number = int(re.search(r"Run (\d+)", state(page, "Train", "is running"))[1])
    page.wait_for_function("document.querySelector('#Train-curve img')", timeout=SECONDS)  # an epoch is done
    page.reload()
    state(page, "Train", f"Run {number}, .*is running")
    page.click("#Train-stop")
    state(page, "Train", "is stopped")
    page.click("#Train-resume")
    state(page, "Train", "is running")
    page.close()
    web.end()
    web.start()
    fresh = browser.new_page()
    fresh.goto(web.url)
    tab(fresh, "Records")
    fresh.locator("#Records-table [role=gridcell]").filter(has_text=re.compile(rf"^\s*{number}\s*$")).first.click(timeout=SECONDS)
    state(fresh, "Records", f"Run {number}, train.*is running")
    fresh.click("#Records-stop")
    state(fresh, "Records", "is stopped")
    log = fresh.locator("#Records-log textarea").input_value()
    assert log.count("$ snnfast train") == 2 and "--resume" in log
    fresh.click("#Records-delete")
    state(fresh, "Records", "Choose a run")
    fresh.close()


def test_uploads(page, tmp_path):
    good, bad = tmp_path / "my net.pt", tmp_path / "bad.pt"
    data = snnfast.data.load("digits")
    snnfast.save_checkpoint(good, snnfast.models.vgg11(width=0.0625, in_channels=data.channels, image_size=data.image_size), data="digits")
    torch.save(dict(state_dict=dict(w=torch.zeros(3)), hook=print), bad)  # a pickle that would call something
    for other, field in (("Train", "earlier"), ("Convert", "source"), ("Diagnose", "source")):
        tab(page, other)
        with page.expect_file_chooser(timeout=SECONDS) as chooser:
            page.click(f"#{other}-upload")
        chooser.value.set_files(good)
        page.wait_for_function(f"document.querySelector('#{other}-{field} input').value.includes('my-net')", timeout=SECONDS)
    tab(page, "Evaluate")
    (tmp_path / "text.pt").write_text("these are no weights")
    with page.expect_file_chooser(timeout=SECONDS) as chooser:
        page.click("#Evaluate-upload")
    chooser.value.set_files(tmp_path / "text.pt")
    page.get_by_text("text.pt is no file of weights").wait_for(timeout=SECONDS)
    chosen = page.locator("#Evaluate-source input")
    for path, name in ((bad, "bad.pt"), (good, "my-net-4.pt")):
        with page.expect_file_chooser(timeout=SECONDS) as chooser:
            page.click("#Evaluate-upload")
        chooser.value.set_files(path)
        page.wait_for_function(f"document.querySelector('#Evaluate-source input').value.includes('{name}')", timeout=SECONDS)
        assert chosen.input_value() == name
        fill(page, "Evaluate-T", "4")
        fill(page, "Evaluate-images", "20")
        page.click("#Evaluate-begin")
        told = state(page, "Evaluate", rf"{name}.*is (done|failed)")
        if path is bad:
            assert "is failed" in told and "snnfast:" in told
    fill(page, "Evaluate-T", "none")
    page.click("#Evaluate-begin")
    page.get_by_text("T must be a number from 1 to").wait_for(timeout=SECONDS)


def test_nothing_outside_the_runs_is_served(web):
    assert web.status("") == 200
    for path in ("/etc/passwd", str(web.folder / "ws/runs.sqlite"), str(web.folder / "server.log"), str(ROOT / "README.md"), "README.md",
                 str(web.folder / "ws/runs/../runs.sqlite"), "../server.log"):  # fmt: skip
        assert web.status(f"gradio_api/file={path}") in (403, 404), path


def test_pages_of_other_sites_are_refused(web):
    for headers, status in ((dict(Host="evil.example"), 403), (dict(Origin="http://evil.example"), 403), ({}, 200)):
        try:
            found = urllib.request.urlopen(urllib.request.Request(web.url, headers=headers)).status
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == status, headers


def test_two_users_with_passwords(tmp_path_factory, browser):
    folder = tmp_path_factory.mktemp("two")
    people = str(folder / "people")
    add = [sys.executable, "-m", "snnfast", "web", "--passwords", people, "--add-user"]
    for name in ("ann", "bob"):
        subprocess.run([*add, name], input=f"password-of-{name}\n", text=True, check=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    web = Web(folder, "--passwords", people)
    try:
        assert web.status("gradio_api/info") == 401 and web.status("config") == 401
        (folder / "ws/uploads/secret-plan.pt").write_bytes(b"x")
        with urllib.request.urlopen(web.url) as answer:
            assert b"secret-plan" not in answer.read()
        pages = []
        for name in ("ann", "bob"):
            page = browser.new_context(viewport=dict(width=1400, height=1300)).new_page()
            page.goto(web.url)
            for password in ("wrong", f"password-of-{name}"):
                page.get_by_label("username").fill(name)
                page.get_by_label("password").fill(password)
                page.get_by_role("button", name="Login").click()
                if password == "wrong":
                    page.get_by_text(re.compile("incorrect", re.I)).first.wait_for(timeout=SECONDS)
            page.wait_for_selector("#Train-begin", timeout=SECONDS)
            pages.append(page)
        for page in pages:
            train(page)
        told = [state(page, "Train", "is (done|failed)") for page in pages]
        assert all("is done" in text for text in told) and len({re.search(r"Run (\d+)", text)[1] for text in told}) == 2
        tab(pages[0], "Records")
        for name in ("ann", "bob"):
            pages[0].locator("#Records-table [role=gridcell]").filter(has_text=name).first.wait_for(timeout=SECONDS)
    finally:
        web.end()
