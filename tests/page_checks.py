"""The page of choir serve in a browser: python3 tests/page_checks.py URL PROCESS [FOLDER]

A conversation, probabilities, editing, stop, a reload, an error. PROCESS: of the server, stopped at the end. FOLDER: for pictures.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from browser import Browser  # noqa: E402

QUESTION = "Julia had 38 cookies. She ate half of them on the first day. How many cookies were left?"
url, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
page = Browser()


def picture(name):
    if folder:
        page.picture(f"{folder}/{name}.png")


def say(text):
    page.run("document.getElementById('input').focus()")
    page.type(text)
    page.press("Enter", 13)


def texts(role):
    return page.run(f"[...document.querySelectorAll('article.{role} .text')].map((e) => e.textContent)")


IDLE = "document.getElementById('stop').disabled && document.getElementById('state').textContent !== ''"
try:
    page.open(url)
    page.until("document.getElementById('model').textContent.startsWith('demo')")
    page.run("Object.entries({temperature: 0, max_tokens: 60}).forEach(([name, value]) => {"
             "const e = document.getElementById('settings').elements[name]; e.value = value;"
             "e.dispatchEvent(new Event('input', {bubbles: true})); })")
    say(QUESTION)
    page.until(IDLE)
    assert texts("user") == [QUESTION], texts("user")
    answer = texts("assistant")
    assert len(answer) == 1 and "19" in answer[0], answer
    assert "tokens/s" in page.run("document.getElementById('state').textContent")

    # Probabilities: by the mouse, and by arrow keys.
    page.run("document.querySelector('[name=colour]').click()")
    page.hover("article.assistant .token:nth-child(3)")
    page.until("!document.getElementById('tip').hidden")
    assert "%" in page.run("document.getElementById('tip').textContent")
    picture("conversation")
    page.run("document.querySelector('article.assistant .text').focus()")
    page.press("ArrowRight", 39)
    page.press("ArrowRight", 39)
    assert page.run("document.activeElement.className").startswith("token")
    page.until("!document.getElementById('tip').hidden")

    # Edit and resend.
    page.run("document.querySelector('article.user header button').click()")
    page.run("document.querySelector('article.user textarea').value = ''")
    page.type("Tom had 10 apples. He ate 3. How many were left?")
    page.press("Enter", 13)
    page.until(IDLE + " && document.querySelectorAll('article').length === 2")
    assert texts("user") == ["Tom had 10 apples. He ate 3. How many were left?"]
    assert texts("assistant") != answer

    # Stop: what there is stays, and the server is idle again.
    page.run("(() => { const e = document.getElementById('settings').elements.max_tokens; e.value = 900;"
             "e.dispatchEvent(new Event('input', {bubbles: true})); document.getElementById('settings').elements.temperature.value = 1.5; })()")
    page.run("document.getElementById('new').click()")
    for attempt in range(20):
        say(f"Tell me a story {attempt}.")
        page.until("!document.getElementById('stop').disabled || " + IDLE)
        page.press("Escape", 27)
        page.until(IDLE)
        if page.run("document.getElementById('state').textContent") == "Stopped.":
            break
    else:
        raise AssertionError("no answer was long enough to be stopped")
    page.until("fetch('/stats').then((r) => r.json()).then((s) => s.running === 0)")

    # A reload: both conversations are there. Dark.
    page.run("document.getElementById('theme').click()")
    theme = page.run("document.documentElement.dataset.theme")
    page.open(url + "/")
    page.until("document.querySelectorAll('#conversations li').length === 2")
    assert page.run("document.documentElement.dataset.theme") == theme
    page.run("document.querySelectorAll('#conversations li button')[2].click()")
    assert texts("user") == ["Tom had 10 apples. He ate 3. How many were left?"]
    page.until("document.querySelectorAll('#ranks canvas').length > 0")
    picture("reload")
    assert page.problems == [], page.problems

    # Errors: of a request, and of a server that is gone.
    page.run("document.getElementById('settings').elements.top_p.value = 7")
    say("Hello")
    page.until("!document.getElementById('error').hidden")
    assert "top_p" in page.run("document.getElementById('error').textContent")
    picture("error")
    page.run("document.getElementById('settings').elements.top_p.value = 1")
    os.kill(process, signal.SIGKILL)
    page.until("fetch('/health').then(() => false, () => true)")
    say("Hello")
    page.until("!document.getElementById('error').hidden && document.getElementById('stop').disabled")
    assert "top_p" not in page.run("document.getElementById('error').textContent")
    print("the page: all as it should be")
finally:
    page.close()
