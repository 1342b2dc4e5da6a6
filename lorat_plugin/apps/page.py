"""The page of `lorat app`: its components and their events."""

from __future__ import annotations

import contextlib
import functools
import html
import ipaddress
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd

from lorat_plugin.apps.session import GOT10K, JSON_LINES, OTHERS, VIDEO, Session
from lorat_plugin.engines import list_engines
from lorat_plugin.errors import InputError
from lorat_plugin.processes import no_proxies
from lorat_plugin.settings import TrackerSettings
from lorat_plugin.tracker import MultiObjectTracker
from lorat_plugin.variants import list_variants
from lorat_plugin.video.demo_clips import CLIPS

SUFFIXES = [".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"]
# ... and no playlists, which name other files
TOGETHER = 2  # visitors whose videos are tracked at once; others wait their turn
PICTURE_SECONDS, CURVE_SECONDS = 0.15, 1.0  # how often the page is refreshed while tracking
SMALL = 10  # pixels; a thinner box is doubtful
SIGN_SECONDS, GONE_SECONDS = 15.0, 3600.0  # between signs of an open page; without one
NEW = "new object"
HELP = """# LoRAT: track anything you can draw a box around
**1** Choose a video or a bundled clip. **2** Click two opposite corners of each object. **3** Press *Track*.
Where a box goes astray, move the slider there, choose the object, draw it anew and press *Track* again."""


class PageOptions(NamedTuple):
    """The tracker that visitors find chosen, and how the page is served; see the help of `lorat app`."""

    settings: TrackerSettings = TrackerSettings()
    host: str = "127.0.0.1"
    port: int | None = None
    max_frames: int = 3000
    max_megabytes: int = 500

    @property
    def local(self) -> bool:
        """True if only this machine can reach the page: then visitors may name files and hub ids."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@contextlib.contextmanager
def served(options: PageOptions) -> Iterator[Page]:
    """Serve the page inside the block; its folder with all uploads and results is removed after it.

    Yields the page, whose `address` is that to open. Raises InputError if the address or port cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="lorat_app_", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = Page(options, Path(folder))
        blocks = page.build().queue(default_concurrency_limit=None)
        try:
            with no_proxies():
                blocks.launch(
                    server_name=options.host,
                    server_port=options.port,
                    max_file_size=options.max_megabytes * 2**20,
                    theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no downloads
                    css="#frame img {max-height: 65vh}",
                    footer_links=[],
                    share=False,
                    ssr_mode=False,
                    quiet=True,
                    prevent_thread_lock=True,
                )
        except OSError as error:
            raise InputError(
                f"{options.host}, port {options.port or '7860 to 7959'}: cannot be served; the port is taken, or the"
                " address is not this machine's: give others with --port, --host"
            ) from error
        page.address = blocks.local_url
        try:
            yield page
        finally:
            page.close()
            blocks.close(verbose=False)


def _warn(error: InputError) -> str:
    """Show a sentence on the page for a while; returns it. It may hold a file's name, so no markup survives.

    Unlike a raised `gr.Error`, a warning does not cover the component that was used.
    """
    sentence = html.escape(str(error))
    gr.Warning(sentence, duration=20, title="")
    return sentence


def _with_warning(handler: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    """The handler, which on an `InputError` shows its sentence and leaves the rest of the page as it is."""

    @functools.wraps(handler)
    def run(page: Page, *arguments: Any) -> dict[Any, Any]:
        try:
            return handler(page, *arguments)
        except InputError as error:
            return {page.status: _warn(error)}

    return run


class Page:
    """The page's components and their events; one `Session` for each browser tab."""

    def __init__(self, options: PageOptions, folder: Path) -> None:
        """Keep uploads, clips and results inside `folder`."""
        self.options, self.folder = options, folder
        self._sessions: dict[str, Session] = {}
        self._corners: dict[str, tuple[int, tuple[float, float]]] = {}  # of a box half drawn: frame; x, y in its pixels
        self.address = ""

    def build(self) -> gr.Blocks:
        """Lay out the page and connect its events."""
        with gr.Blocks(title="LoRAT", analytics_enabled=False, delete_cache=(600, 3600)) as page:
            gr.Markdown(HELP)
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self._build_controls()
                with gr.Column(scale=3, min_width=320):
                    self._build_views()
            self._connect()
            gr.Timer(SIGN_SECONDS).tick(self._sign, show_progress="hidden")  # gradio's own unload event may not come
        return page

    def _build_controls(self) -> None:
        chosen, local = self.options.settings, self.options.local
        self.upload = gr.File(label="Video", file_types=SUFFIXES, height=130)
        self.clip = gr.Dropdown(list(CLIPS), value=None, label="or a bundled clip")
        self.object = gr.Dropdown([NEW], value=NEW, label="Object to draw")
        self.box = gr.Textbox(label="Its box here: x, y, w, h in pixels", placeholder="click, or type and press Enter",
                              max_lines=1)  # fmt: skip
        self.remove = gr.Button("Remove object", size="sm")
        with gr.Accordion("Model", open=False):
            models = list(dict.fromkeys([chosen.model, *list_variants()]))
            self.model = gr.Dropdown(models, value=chosen.model, label="Model", allow_custom_value=local)
            self.weights = gr.Textbox(chosen.weights or "", label="Weights: file, adapter folder; empty: the bundled",
                                      max_lines=1, visible=local)  # fmt: skip
            self.engine = gr.Dropdown(["auto", *list_engines()], value=chosen.engine, label="Engine")
        with gr.Row():
            self.track = gr.Button("Track", variant="primary")
            self.stop = gr.Button("Stop")

    def _build_views(self) -> None:
        self.status = gr.Markdown("No video yet.")
        self.picture = gr.Image(format="jpeg", interactive=False, show_label=False, buttons=[], elem_id="frame")
        self.frame = gr.Slider(0, 1, value=0, step=1, label="Frame", interactive=True)
        self.curve = gr.LinePlot(x="frame", y="score", color="object", y_lim=[0, 1], height=240, label="Scores",
                                 colors_in_legend=[], color_title=" ", buttons=[])  # fmt: skip
        with gr.Row():
            self.formats = gr.CheckboxGroup([VIDEO, GOT10K, JSON_LINES, *OTHERS], value=[VIDEO, GOT10K, JSON_LINES],
                                            label="Results", scale=3, min_width=320)  # fmt: skip
            self.write = gr.Button("Write files", scale=1)
        self.files = gr.File(label="Download", file_count="multiple", interactive=False, visible=False,
                             elem_id="results")  # fmt: skip

    def _connect(self) -> None:
        view = [self.picture, self.frame, self.object, self.box, self.status, self.curve, self.files]
        quiet: dict[str, Any] = {"outputs": view, "show_progress": "hidden"}
        self.upload.upload(self._open, self.upload, [*view, self.upload, self.clip], show_progress_on=self.upload)
        self.clip.input(self._open_clip, self.clip, [*view, self.upload], show_progress_on=self.picture)
        self.frame.input(self._show, [self.frame, self.object], **quiet, trigger_mode="always_last")
        self.object.input(self._show, [self.frame, self.object], **quiet)
        self.picture.select(self._click, [self.frame, self.object], **quiet)
        self.box.submit(self._type, [self.frame, self.object, self.box], **quiet)
        self.remove.click(self._remove, [self.frame, self.object], **quiet)
        waiting = self.track.click(lambda: "Waiting for a turn.", outputs=self.status, show_progress="hidden")
        waiting.then(self._track, [self.object, self.model, self.weights, self.engine], **quiet,
                     concurrency_limit=TOGETHER)  # fmt: skip
        self.stop.click(self._stop, show_progress="hidden")
        self.write.click(self._write, self.formats, [self.files, self.status], show_progress_on=self.formats)

    # -- what visitors do ---------------------------------------------------------------------------------------------

    def _session(self, request: gr.Request) -> Session:
        key = str(request.session_hash)
        if key not in self._sessions:
            self._sessions[key] = Session(self.folder, self.options.max_frames)
        return self._sessions[key]

    def _sign(self, request: gr.Request) -> None:
        self._session(request).seen = time.monotonic()

    def close(self) -> None:
        """End all that runs and remove all sessions."""
        self.sweep(-1)

    def sweep(self, gone_seconds: float = GONE_SECONDS) -> None:
        """Remove the sessions of pages that have been closed for some time: a laptop may only have slept."""
        now = time.monotonic()
        for key, session in list(self._sessions.items()):
            if now - session.seen > gone_seconds:
                self._corners.pop(key, None)
                self._sessions.pop(key).close()

    def _open(self, path: str, request: gr.Request, progress: gr.Progress = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        session = self._session(request)
        try:
            session.open(Path(path), lambda done, total: progress((done, total), desc="reading", unit="frames"))
        except InputError as error:
            return {self.upload: None, self.status: _warn(error)}
        height, width = session.size
        status = f"{session.length} frames of {width}x{height}. {session.note} Click two opposite corners of an object."
        return {**self._view(session, 0, NEW, status), self.clip: None}

    @_with_warning
    def _open_clip(self, name: str, request: gr.Request) -> dict[Any, Any]:
        session = self._session(request)
        session.open(CLIPS[name])
        status = f"{session.length} frames. Click two opposite corners of an object."
        return {**self._view(session, 0, NEW, status), self.upload: None}

    def _show(self, frame: int, chosen: str, request: gr.Request) -> dict[Any, Any]:
        view = self._view(self._session(request), frame, chosen, gr.skip())
        view.pop(self.files, None)  # who only looks keeps the files
        return view

    @_with_warning
    def _click(self, event: gr.SelectData, frame: int, chosen: str, request: gr.Request) -> dict[Any, Any]:
        session, key = self._session(request), str(request.session_hash)
        point = session.to_frame(event.index)
        first_frame, first = self._corners.pop(key, (-1, point))
        if first_frame != frame:
            self._corners[key] = frame, point
            return {**self._view(session, frame, chosen, "Click the opposite corner."),
                    self.picture: session.picture(frame, point)}  # fmt: skip
        (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(first, point, strict=True))
        if x1 == x2 or y1 == y2:
            raise InputError("two opposite corners must differ: click both again")
        return self._draw(session, frame, chosen, [x1, y1, x2 - x1, y2 - y1])

    @_with_warning
    def _type(self, frame: int, chosen: str, text: str, request: gr.Request) -> dict[Any, Any]:
        try:
            box = [float(part) for part in text.split(",")]
        except ValueError:
            raise InputError("a box is four numbers with commas between: x, y, w, h") from None
        return self._draw(self._session(request), frame, chosen, box)

    def _draw(self, session: Session, frame: int, chosen: str, box: list[float]) -> dict[Any, Any]:
        number = session.draw(frame, None if chosen == NEW else int(chosen), box)
        status = f"Object {number} is drawn in frame {frame}. Press *Track*, or choose *{NEW}* and draw another."
        if min(box[2:]) < SMALL:
            status += f" It is less than {SMALL} pixels wide or high: the tracker may lose so small an object."
        return self._view(session, frame, str(number), status)

    def _remove(self, frame: int, chosen: str, request: gr.Request) -> dict[Any, Any]:
        session = self._session(request)
        if chosen != NEW:
            session.remove(int(chosen))
        return self._view(session, frame, NEW, gr.skip())

    def _track(
        self, chosen: str, model: str, weights: str, engine: str, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        session, settings = self._session(request), replace(self.options.settings, model=model, engine=engine)
        if self.options.local:
            settings = replace(settings, weights=weights.strip() or None)
        try:
            session.due()
            yield {self.status: "Loading the model."}
            tracker, turn = trained(settings, _mark(settings.weights))
            began, frames, frame = time.monotonic(), 0, 0
            pictured = curved = 0.0
            for frame in session.follow(tracker, turn):
                frames, now = frames + 1, time.monotonic()
                if now - pictured > PICTURE_SECONDS:
                    pictured = now
                    speed = frames / (now - began)
                    shown = {self.picture: session.picture(frame), self.frame: gr.update(value=frame),
                             self.status: f"Frame {frame} of {session.length}, {speed:.0f} frames/s."}  # fmt: skip
                    if now - curved > CURVE_SECONDS:
                        curved = now
                        shown[self.curve] = self._curve(session)
                    yield shown
        except InputError as error:
            yield {self.status: _warn(error)}
            return
        end = "to the end" if frame == session.length - 1 else f"up to frame {frame}, where it was stopped"
        status = f"Tracked {end}: {frames} frames, {frames / (time.monotonic() - began):.0f} a second."
        yield self._view(session, frame, chosen, status)

    def _stop(self, request: gr.Request) -> None:
        self._session(request).stop()

    @_with_warning
    def _write(self, formats: list[str], request: gr.Request) -> dict[Any, Any]:
        files = self._session(request).write(formats)
        return {self.files: gr.update(value=[str(path) for path in files], visible=True)}

    # -- what they see ------------------------------------------------------------------------------------------------

    def _view(self, session: Session, frame: int, chosen: str, status: Any) -> dict[Any, Any]:
        """Everything on the page that shows a session's state."""
        if not session.length:
            return {self.status: "No video yet."}
        chosen = chosen if chosen == NEW or int(chosen) in session.tracks else NEW
        result = session.results(frame).get(-1 if chosen == NEW else int(chosen))
        return {
            self.picture: session.picture(frame),
            self.frame: gr.update(value=frame, maximum=session.length - 1),
            self.object: gr.update(choices=[NEW, *map(str, session.tracks)], value=chosen),
            self.box: "" if result is None else ", ".join(f"{value:.1f}" for value in result.box),
            self.status: status,
            self.curve: self._curve(session),
            self.files: gr.update(value=None, visible=False),
        }

    def _curve(self, session: Session) -> Any:
        if not session.tracks:
            return None
        # gradio colours the objects that it knew when another property last changed: one changes with each followed
        followed = sum(track.end > track.first + 1 for track in list(session.tracks.values()))
        colours = {**session.colours(), "followed": str(followed)}
        return gr.LinePlot(pd.DataFrame(session.scores()), color_map=colours, x_lim=[0, session.length - 1])


@functools.lru_cache(maxsize=2)
def trained(settings: TrackerSettings, mark: int) -> tuple[MultiObjectTracker, threading.Lock]:
    """A tracker that all visitors with these settings share, and the lock for its engine."""
    return settings.load(MultiObjectTracker), threading.Lock()


def _mark(weights: str | None) -> int:
    """Changes when a file of weights does, so that training goes on to be seen."""
    return Path(weights).stat().st_mtime_ns if weights and Path(weights).exists() else 0
