"""What a page must not do: log errors, or ask for anything beyond this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page, WebError

# Notebook 7.6.5 throws this once as it loads, on a notebook without any widget too.
NOTEBOOK7_ERROR = "Cannot read properties of undefined (reading 'schema')"
# JupyterLab logs this now and then when a kernel is restarted while it writes: half a message reaches the page.
RESTART_ERROR = "Kernel message validation error"
_HERE = ("127.0.0.1", "localhost")
_WITHOUT_NETWORK = ("data", "blob", "about", "file")


class Watch:
    """Collects from all pages of a browser context, from their first request on. Errors with a `harmless` text are not
    about what is tested."""

    def __init__(self, context: BrowserContext, harmless: tuple[str, ...] = ()) -> None:
        self._harmless = harmless
        self.errors: list[str] = []
        self.foreign_requests: list[str] = []
        self._context = context
        context.on("console", self._console)
        context.on("weberror", self._exception)
        context.on("request", lambda request: self._requested(request.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: self._requested(socket.url)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(text in message.text for text in self._harmless):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _exception(self, error: WebError) -> None:
        if not any(text in str(error.error) for text in self._harmless):
            self.errors.append(str(error.error))

    def _requested(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _WITHOUT_NETWORK and parts.hostname not in _HERE:
            self.foreign_requests.append(url)

    def check(self) -> None:
        """Asserts that there was nothing since the last check."""
        for page in self._context.pages:
            _settle(page)
        errors, foreign = self.errors[:], self.foreign_requests[:]
        self.errors.clear()
        self.foreign_requests.clear()
        assert not errors, "the browser's console has errors:\n" + "\n".join(errors)
        assert not foreign, "requests beyond this machine:\n" + "\n".join(foreign)


def _settle(page: Page) -> None:
    # Events come in order with answers: after this one, all that were there before have come.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
