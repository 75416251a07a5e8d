# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The web page of a blind comparison. Needs gradio, which the `eval` extra installs.

Each page has a ticket that identifies the pair it shows. The browser sends the ticket back with the vote. The server
keeps no state per page: a second click votes on the pair that was clicked, and a page works after a server restart.
"""

import base64
import html
import io
import json
import os
import socket
import time
from functools import partial


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["GRADIO_RUN_HISTORY"] = "False"  # a copy of all images in the browser's storage

import gradio as gr
import uvicorn
from fastapi import FastAPI
from PIL import Image

from ..errors import RunError, UsageError
from .study import Study


SMALL = 256  # pixels; images below are enlarged without smoothing
TITLE = "Which image is better?"
BUTTONS = {"left": "← Left", "tie": "↓ No difference", "right": "Right →"}  # label of each choice
KEYS = {"ArrowLeft": "left", "ArrowDown": "tie", "ArrowRight": "right"}
INTRODUCTION = (
    "You will see pairs of images with the text they were made from. Choose the better one: how it looks, and how "
    "well it shows what the text says."
)
WITHOUT_TEXT = "You will see pairs of images. Choose the better one."
KEYS_TOO = "You can use the arrow keys instead of the buttons."
HEAD = f"""<script>
const keys = {json.dumps(KEYS)};
addEventListener("keydown", (event) => {{
  const writing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
  if (!(event.key in keys) || writing || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  document.getElementById(keys[event.key])?.click();
}});
</script>"""
CSS = """
.gradio-container > main { max-width: 1500px !important; margin: auto }
.progress { text-align: center; opacity: .65 }
.prompt { text-align: center; font-size: 1.5rem; line-height: 1.3; margin: .3rem auto 1rem; max-width: 60rem }
.pair { display: flex; justify-content: center; gap: 1.5rem }
.pair img { width: min(46vw, 66vh); height: auto; max-height: 66vh; object-fit: contain }
.pair img.small { max-width: 512px; image-rendering: pixelated }
.thanks { text-align: center; font-size: 1.5rem; margin: 4rem }
#choices { justify-content: center } #choices button { max-width: 14rem }
#name { max-width: 30rem; margin: 4rem auto }
"""
# Gradio's page requests fonts and a script from other hosts. This policy stops the browser from loading them.
POLICY = (
    b"default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    b"script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:"
)


def show(study: Study, rater: str) -> tuple[str, str]:
    """The next page of a rater: its ticket and its HTML. After the last pair the ticket is empty.

    Raises:
        UsageError: as in `Study.next`.
    """
    found, total = study.next(rater), len(study.pairs)
    if found is None:
        return "", f'<p class="thanks">Thank you! You have judged all {total} pairs and may close this page.</p>'
    position, question = found
    ticket = {"study": study.key, "rater": rater, "position": position, "shown": time.time()}
    left, right = map(image_tag, question.images)
    prompt = f'<p class="prompt">{html.escape(question.pair.prompt)}</p>' if question.pair.prompt else ""
    return json.dumps(ticket), (
        f'<p class="progress">{TITLE} &nbsp; {position + 1} of {total}</p>{prompt}'
        f'<div class="pair">{left}{right}</div>'
    )


def image_tag(file: str | os.PathLike) -> str:
    """An `<img>` with the pixels as inline PNG. No name, metadata or address reveals which side it is from."""
    png = io.BytesIO()
    with Image.open(file) as image:
        small = max(image.size) < SMALL
        image.convert("RGB").save(png, "PNG", compress_level=1)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img class="{"small" if small else "large"}" src="data:image/png;base64,{data}">'


def cast(study: Study, choice: str, ticket: str) -> str:
    """Record the vote of a page.

    Args:
        study (`Study`).
        choice (`str`): "left", "right" or "tie".
        ticket (`str`): from `show`.

    Returns:
        `str`: the rater.

    Raises:
        UsageError: the page belongs to another comparison.
        RunError: the vote cannot be saved.
    """
    try:
        ticket = json.loads(ticket)
        if ticket["study"] != study.key:
            raise ValueError
        rater, position, seconds = ticket["rater"], ticket["position"], max(0.0, time.time() - ticket["shown"])
    except (ValueError, KeyError, TypeError):
        raise UsageError("This page belongs to another comparison: reload it.") from None
    if not study.vote(rater, position, choice, seconds):
        gr.Info("You had judged this pair already; your first vote counts.")
    return rater


def build_page(study: Study, rater: str | None = None) -> gr.Blocks:
    """The page as a Gradio app. With a rater it starts at once, else it asks for a name."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        with gr.Column(visible=not rater, elem_id="name") as form:
            introduction = INTRODUCTION if any(pair.prompt for pair in study.pairs) else WITHOUT_TEXT
            gr.HTML(f"<p>{introduction} {KEYS_TOO}</p>")
            name = gr.Textbox(label="Your name", max_lines=1, autofocus=True)
            begin = gr.Button("Start", variant="primary")
        view = gr.HTML()
        with gr.Row(visible=False, elem_id="choices") as choices:
            buttons = {choice: gr.Button(label, elem_id=choice, size="lg") for choice, label in BUTTONS.items()}
        ticket = gr.Textbox(visible="hidden")  # not False: the initial value of a removed element could be sent
        outputs = [ticket, view, form, choices]

        def advance(rater):
            given, shown = show(study, rater)
            return given, shown, gr.update(visible=False), gr.update(visible=bool(given))

        def start(name):
            return _with_error_shown(lambda: advance(name))

        def vote(choice, ticket):
            return _with_error_shown(lambda: advance(cast(study, choice, ticket)))

        gr.on([begin.click, name.submit], start, name, outputs, api_name="start", show_progress="hidden")
        for choice, button in buttons.items():
            button.click(partial(vote, choice), ticket, outputs, api_name=choice, show_progress="hidden")
        if rater:
            page.load(partial(start, rater), None, outputs, api_name=False, show_progress="hidden")
    return page


def _with_error_shown(action):
    """Run an action; the page shows the message of our errors."""
    try:
        return action()
    except (UsageError, RunError) as error:
        raise gr.Error(str(error), duration=5, print_exception=False) from None  # seconds


def serve(study: Study, listener: socket.socket, rater: str | None = None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        study (`Study`): an open one.
        listener (`socket.socket`): already listening.
        rater (`str`, *optional*): whose votes these are; by default the page asks for a name.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
    """
    app = FastAPI(openapi_url=None)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    gr.mount_gradio_app(app, build_page(study, rater), path="", footer_links=[], ssr_mode=False, pwa=False,
                        enable_monitoring=False, mcp_server=False, theme=theme, css=CSS, head=HEAD)  # fmt: skip
    config = uvicorn.Config(_guarded(app), log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def _guarded(app):
    """The same ASGI application with POLICY in the headers of each response."""

    async def guarded(scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await app(scope, receive, send_with_policy)

    return guarded
