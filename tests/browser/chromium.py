"""Chromium without a window, and the page of a Panel that it has open."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import ProcessProtocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.reactor import reactor

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
// As the file manager of a Panel's page: what it has of the node comes by the Panel. Directories
// and at last a file are clicked in turn, null for the first one; the file is copied, and
// saved by a signed URL.
const manageFiles = async (names) => {
  const call = (name, given) => fetch(`/files/${name}?${new URLSearchParams(given)}`);
  let last = "";
  const list = async (directory) => {
    const found = await (await call("list", {directory})).json();
    document.body.replaceChildren(...found.map((entry) => {
      const row = document.createElement("button");
      row.textContent = entry.name;
      row.onclick = () => {
        last = `${directory}/${entry.name}`;
        return entry.directory ? list(last) : call("copy", {location: last});
      };
      return row;
    }));
    return found.map((entry) => entry.name);
  };
  const seen = [await list("")];
  for (const wanted of names) {
    const rows = [...document.body.children];
    const row = wanted === null ? rows[0] : rows.find((each) => each.textContent === wanted);
    seen.push(await row.onclick());
  }
  click(await (await call("download", {file_path: last})).json());
  report({seen: seen.slice(0, -1), copied: seen.pop().status, after: await list("")});
};
addEventListener("load", () => {
  if (task.files !== undefined) {
    manageFiles(task.files).catch((error) => report({error: String(error)}));
  } else if (task.console !== undefined) { typeLines(task.console, task.token); }
  else if (task.urls !== undefined) {
    uploadParts(task.urls, task.size, task.total).catch((error) => report({error: String(error)}));
  } else if (task.size === undefined) { click(task.url); }
  else { upload(task.url, task.name, task.size); }
});
</script><body></body>
"""


class PanelPage(Resource):
    """The site of a Panel: one page that does a task, and tells what came of it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._task: dict[str, Any] = {}
        self._result: Deferred[Any] = Deferred()
        self._port: Any = None
        #: Makes a call of the file manager, such as `list`, and returns the node's answer.
        self.manage: Callable[[str, dict[str, str]], Coroutine[Any, Any, tuple[int, bytes]]]

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

    def render_GET(self, request: Any) -> bytes | int:
        if request.path.startswith(b"/files/"):
            name = request.path.decode().rpartition("/")[2]
            given = {key.decode(): value.decode() for key, (value,) in request.args.items()}
            ensureDeferred(self._manage(request, name, given))
            return NOT_DONE_YET
        if request.path != b"/":
            request.setResponseCode(404)
            return b""
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return (PAGE % json.dumps(self._task)).encode()

    async def _manage(self, request: Any, name: str, given: dict[str, str]) -> None:
        status, body = await self.manage(name, given)
        request.setResponseCode(status)
        request.write(body)
        request.finish()

    def render_POST(self, request: Any) -> bytes:
        self._result.callback(json.loads(request.content.read()))
        return b""


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
            "download": {"default_directory": str(self.downloads), "prompt_for_download": False}
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
