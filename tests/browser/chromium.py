"""Chromium without a window, and the page of a Panel that it has open."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import ProcessProtocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.panel import Panel
from tests.support.reactor import reactor
from tests.support.state import Node

CHROMIUM = shutil.which("chromium") or ""
#: Seconds for one page.
WITHIN = 60
#: As the pages of Panels upload: with a listener for the progress, for which browsers ask the node
#: by OPTIONS first.
PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>
const task = %s;
const report = (result) => fetch("/report", {method: "POST", body: JSON.stringify(result)});
const click = (url) => {
  const link = document.createElement("a");
  link.href = url;
  document.body.append(link);
  link.click();
};
const upload = (url, name, size) => {
  const form = new FormData();
  form.append("files", new Blob([new Uint8Array(size).fill(120)]), name);
  const request = new XMLHttpRequest();
  let sent = 0;
  request.upload.addEventListener("progress", (event) => { sent = event.loaded; });
  const end = () => report({status: request.status, text: request.responseText, sent});
  request.addEventListener("load", end);
  request.addEventListener("error", end);
  request.open("POST", url);
  request.send(form);
};
// As the pages of Calagopus upload: in parts that say where they begin, by headers for which
// browsers ask the node first. The node says how much of the file is here.
const uploadParts = async (urls, size, total) => {
  let offset = 0;
  const offsets = [];
  for (const url of urls) {
    const here = await fetch(url, {method: "HEAD"});
    offset = Number(here.headers.get("Upload-Offset"));
    const body = new Uint8Array(Math.min(size, total - offset)).fill(120);
    const isLast = offset + body.length === total;
    const headers = {"Upload-Offset": offset, "Upload-Length": total};
    if (isLast) { headers["Upload-Complete"] = "?1"; }
    const part = await fetch(url, {method: "PATCH", headers, body});
    offsets.push([part.status, Number(part.headers.get("Upload-Offset"))]);
  }
  report({offsets});
};
// As an owner's page: types lines from when it is told that the server is sent until it is told
// more, and then tells how many were answered.
const typeLines = (url, token) => {
  const socket = new WebSocket(url);
  const send = (event, ...args) => socket.send(JSON.stringify({event, args}));
  const states = [];
  let answers = 0, typing = null;
  socket.onopen = () => send("auth", token);
  socket.onmessage = ({data}) => {
    const {event, args} = JSON.parse(data);
    if (event === "auth success") { report({isOpen: true}); }
    if (event === "console output" && args[0] === "you said hello") { answers += 1; }
    if (event !== "transfer status") { return; }
    states.push(args[0]);
    if (args[0] === "starting") {
      typing = setInterval(() => send("send command", "hello"), 200);
    } else if (args[0] === "processing") {
      clearInterval(typing);
      report({states, answers});
    }
  };
};
// As an owner's page: has its Panel ask the node, and shows what the console's socket tells.
const use = async (url, token) => {
  const socket = new WebSocket(url);
  const send = (event, ...args) => socket.send(JSON.stringify({event, args}));
  const heard = [];
  socket.onopen = () => send("auth", token);
  socket.onmessage = ({data}) => heard.push(JSON.parse(data));
  const hear = async (name) => {
    for (;;) {
      const at = heard.findIndex(({event}) => event.startsWith(name));
      if (at >= 0) { return heard.splice(at, 1)[0]; }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await hear("auth success");
  for (;;) {
    const {save, ask, event} = await (await fetch("/step")).json();
    let result = {};
    if (save !== undefined) { click(save); }
    if (ask !== undefined) {
      const [method, path, body] = ask;
      const answer = await fetch(`/node${path}`, {method, body: body && JSON.stringify(body)});
      result = {status: answer.status, text: await answer.text()};
    }
    if (event !== undefined) { result.event = (await hear(event)).event; }
    await report(result);
  }
};
addEventListener("load", () => {
  if (task.used !== undefined) {
    use(task.used, task.token).catch((error) => report({error: String(error)}));
  } else if (task.console !== undefined) { typeLines(task.console, task.token); }
  else if (task.urls !== undefined) {
    uploadParts(task.urls, task.size, task.total).catch((error) => report({error: String(error)}));
  } else if (task.size === undefined) { click(task.url); }
  else { upload(task.url, task.name, task.size); }
});
</script><body></body>
"""


class PanelPage(Resource):
    """The site of a Panel: one page that does a task, and tells what came of it.

    What it asks for at paths below `/node`, the `panel` asks the node for.
    """

    isLeaf = True

    def __init__(self, panel: Panel | None = None, node: Node | None = None) -> None:
        super().__init__()
        self._panel, self._node = panel, node
        #: What a page that is used does next.
        self._steps: DeferredQueue[dict[str, Any]] = DeferredQueue()
        self._task: dict[str, Any] = {}
        self._result: Deferred[Any] = Deferred()
        self._port: Any = None

    def listen(self) -> str:
        """Return the origin."""
        site: Any = Site(self)
        self._port = reactor.listenTCP(0, site, interface="127.0.0.1")
        return f"http://127.0.0.1:{self._port.getHost().port}"

    async def close(self) -> None:
        await self._port.stopListening()

    def expect(self, **task: Any) -> Deferred[Any]:
        """Have the next page do this; return what it reports."""
        self._task, self._result = task, Deferred()
        return self._result

    async def use(self, **step: Any) -> dict[str, Any]:
        """Let the open page do one step; return its result.

        It asks the node for `ask` (method, path, body), downloads `save`, or hears of an `event`.
        """
        self._result = Deferred()
        self._steps.put(step)
        told: dict[str, Any] = await self._result.addTimeout(WITHIN, reactor)
        assert "error" not in told, told
        return told

    def render(self, request: Any) -> Any:
        if request.path.startswith(b"/node/"):
            Deferred.fromCoroutine(self._ask(request))
            return NOT_DONE_YET
        if request.path == b"/step":
            self._steps.get().addCallback(lambda step: _answer(request, step))
            return NOT_DONE_YET
        return super().render(request)

    async def _ask(self, request: Any) -> None:
        assert self._panel is not None
        assert self._node is not None
        method, path = request.method.decode(), request.uri.decode().removeprefix("/node")
        data = request.content.read()
        body = json.loads(data) if data else None
        status, answer = await self._panel.ask(self._node, method, path, body)
        request.setResponseCode(status)
        _answer(request, answer)

    def render_GET(self, request: Any) -> bytes:
        if request.path != b"/":
            request.setResponseCode(404)
            return b""
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return (PAGE % json.dumps(self._task)).encode()

    def render_POST(self, request: Any) -> bytes:
        self._result.callback(json.loads(request.content.read()))
        return b""


def _answer(request: Any, answer: Any) -> None:
    request.write(b"" if answer is None else json.dumps(answer).encode())
    request.finish()


class _Process(ProcessProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.output = b""

    def outReceived(self, data: bytes) -> None:
        self.output += data

    errReceived = outReceived

    def processEnded(self, reason: object) -> None:
        self.ended.callback(None)


class Chromium:
    """One run of the browser, with a profile of its own; downloads go to `downloads`."""

    def __init__(self, directory: Path) -> None:
        self.downloads = directory / "downloads"
        self.downloads.mkdir()
        profile = directory / "profile"
        (profile / "Default").mkdir(parents=True)
        preferences = {
            "download": {"default_directory": str(self.downloads), "prompt_for_download": False},
            # More than one of a page, also without a click of a user.
            "profile": {"default_content_setting_values": {"automatic_downloads": 1}},
        }
        (profile / "Default" / "Preferences").write_text(json.dumps(preferences))
        self._profile = profile
        self._process = _Process()
        self._pid = 0

    def open(self, url: str) -> None:
        command = [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--ignore-certificate-errors",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._profile}",
            url,
        ]
        environment = {**os.environ, "HOME": str(self._profile)}
        # In a group of its own, so that it is ended with its children.
        made = reactor.spawnProcess(
            self._process, "/usr/bin/setsid", ["setsid", *command], environment
        )
        self._pid = made.pid

    async def close(self) -> None:
        if self._pid and not self._process.ended.called:
            os.killpg(self._pid, signal.SIGKILL)
            await self._process.ended
