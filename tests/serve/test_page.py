"""The page at ``/``: what it may load, and a conversation in a real browser."""

import json
import os
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import chromium
from fakes import FakeProgram, fake_engine, parrot
from live_server import SlowProgram, live

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_app
from slipstream.serve.keys import KeyRing

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> **bold** `code`\n\n```html\n<b>x</b>\n```\n- one\n- two"
PAGE = Path(__file__).parents[2] / "src/slipstream/serve/page"
KEY = "sk-page-0123456789"


def test_the_page_and_its_parts_are_served_with_a_strict_policy(http):
    for path in ("/", "/page/style.css", "/page/app.js", "/page/icon.svg"):
        reply = http.get(path)
        assert reply.status_code == 200 and reply.content
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    for path in ("/page/index.html", "/page/nothing.js", "/page/../app.py", "/page/..%2Fapp.py"):
        assert http.get(path).status_code == 404, path


def test_the_page_names_no_other_host_and_writes_no_markup():
    for file in PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"\w+://|[\"'(]//|@import", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert not re.search(r"\son[a-z]+\s*=\s*[\"']|\sstyle\s*=\s*[\"']", text), file


def says(script):
    """After ``<assistant>`` the script, whatever is in it, then the end."""

    def answer(ids):
        said = len(ids) - (bytes(i % 256 for i in ids).rindex(b"<assistant>") + 11)
        logits = np.zeros(257, np.float32)
        logits[script.encode()[said] if said < len(script) else 256] = 40
        return logits

    return answer


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


def wait(browser, condition, seconds=15):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.02).until(lambda _: condition())


def every(browser, selector):
    return browser.find_elements("css selector", selector)


def one(browser, selector):
    return browser.find_element("css selector", selector)


def ask(browser, text):
    from selenium.webdriver.common.keys import Keys

    browser.switch_to.active_element.send_keys(text, Keys.ENTER)


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.slow
def test_a_conversation_by_keyboard(browser):
    engine = fake_engine(FakeProgram(257, says(HOSTILE)), context=2048)
    with live(make_app(engine, name="fake")) as url:
        browser.get(url)
        wait(browser, lambda: every(browser, "#model option"))
        assert one(browser, "#model").get_attribute("value") == "fake"
        ask(browser, "Hi")
        wait(browser, lambda: every(browser, ".foot"))
        answer = one(browser, ".turn.assistant .text")
        assert answer.text.startswith("<img src=x onerror=") and browser.title == "Slipstream"
        assert not every(browser, ".turn img") and not every(browser, ".turn pre b")
        assert [e.text for e in every(browser, ".turn strong, .turn p code")] == ["bold", "code"]
        assert one(browser, ".turn pre").text == "<b>x</b>"
        assert [e.text for e in every(browser, ".turn li")] == ["one", "two"]
        foot = one(browser, ".foot").text
        for words in ("to first token", "tokens/s", f"{len(HOSTILE) + 1} tokens", "in prompt"):
            assert words in foot, foot
        ask(browser, "And?")  # the field has the focus again
        wait(browser, lambda: len(every(browser, ".foot")) == 2)
        assert "cached" in every(browser, ".foot")[1].text
        assert one(browser, "#status").get_attribute("textContent").startswith("Answered")
        wait(browser, lambda: one(browser, "#health").text == "Ready")
        wait(browser, lambda: "used" in one(browser, "#kv-note").text)
        folder = os.environ.get("SLIPSTREAM_SCREENSHOTS")
        if folder:
            browser.save_screenshot(f"{folder}/page.png")
        assert errors(browser) == []


@pytest.mark.slow
def test_escape_stops_an_answer_and_frees_its_pages(browser):
    program = SlowProgram(257, parrot("abcdefghij" * 50))
    engine = fake_engine(program)
    with live(make_app(engine, name="fake")) as url:
        browser.get(url)
        wait(browser, lambda: every(browser, "#model option"))
        ask(browser, "Hi")
        for _ in range(4):
            program.gate.release()
        wait(browser, lambda: "ab" in one(browser, "#log").text)
        assert one(browser, "#stop").is_displayed()
        browser.switch_to.active_element.send_keys("\ue00c")  # Escape
        wait(browser, lambda: every(browser, ".foot"))
        assert "stopped" in one(browser, ".foot").text
        wait(browser, lambda: program.gate.release() or engine.idle)
        assert engine.snapshot().pages_used == 0


@pytest.mark.slow
def test_a_refusal_is_shown_in_words_and_the_key_opens(browser):
    limits = AdmissionLimits()
    ring = KeyRing(limits.accounts, text=f"page:{KEY}")
    engine = fake_engine(FakeProgram(257, parrot("Hello")))
    with live(make_app(engine, name="fake", limits=limits, keyring=ring)) as url:
        assert httpx.get(url).status_code == 200
        browser.get(url)
        wait(browser, lambda: one(browser, "#settings").get_attribute("open"))
        one(browser, "#key").send_keys(KEY)
        one(browser, "#settings button").click()
        wait(browser, lambda: every(browser, "#model option"))
        ask(browser, "Hi")
        wait(browser, lambda: every(browser, ".foot"))
        assert one(browser, ".turn.assistant .text").text == "Hello"
        browser.execute_script("document.activeElement.value = 'x'.repeat(2000)")
        ask(browser, "!")
        alarm = wait(browser, lambda: every(browser, "[role=alert]"))[0]
        assert "tokens" in alarm.text and "at most 1024" in alarm.text


def names_and_roles(browser):
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored")
    ]


@pytest.mark.slow
def test_whatever_can_be_used_has_a_name(browser):
    with live(make_app(fake_engine(), name="fake")) as url:
        browser.get(url)
        wait(browser, lambda: every(browser, "#model option"))
        found = names_and_roles(browser)
    used = [pair for pair in found if pair[0] in ("button", "textbox", "combobox", "link", "log")]
    assert len(used) >= 8 and all(name for _, name in used), json.dumps(used)
