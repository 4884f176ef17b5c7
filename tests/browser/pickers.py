"""A picker on a page, as a user handles it: with the mouse and the keyboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from browser.driver import expect
from spt_lens.heads import Head, HeadSet
from spt_lens.picker.pages import _MODEL, page_html
from spt_lens.picker.picker import HeadPicker

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def page_of(picker: HeadPicker, page: Page, tmp_path: Any) -> PickerPage:
    """The picker's own page, opened from a file."""
    page.goto(picker.write_html(tmp_path / "picker.html").as_uri())
    return PickerPage(page, page.locator("body"), picker.n_layers, picker.n_heads)


# Stands for a kernel: every message goes to Python at once, and its answers come back one by one.
_KERNEL = """
const state = JSON.parse(document.getElementById("spt-state").textContent), hear = {};
const packed = document.getElementById("spt-plotly").textContent.trim();
const tell = (message) => window.toPython(message).then((back) => {
  Object.assign(state, back.state);
  for (const name of Object.keys(back.state)) (hear[`change:${name}`] ?? []).forEach((one) => one());
  for (const each of back.sent) (hear["msg:custom"] ?? []).forEach((one) => one(each));
});
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes: () => tell({ kind: "state", state: { _chosen: state._chosen, _auto: state._auto } }),
  send: tell, on: (name, one) => (hear[name] ??= []).push(one), off() {},
  plotly: async () => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0)),
};
widget.render({ model, el: document.querySelector("main") });
"""


def live_page(picker: HeadPicker, page: Page, tmp_path: Any, asked: list[Any] | None = None) -> PickerPage:
    """A page with this picker behind it, in this process: what the page sends is noted in `asked`."""

    def to_python(message: Any) -> dict[str, Any]:
        if asked is not None:
            asked.append(message)
        sent: list[Any] = []
        picker.send = lambda content, buffers=None: sent.append(content)  # type: ignore[method-assign]
        if message["kind"] == "state":
            picker.set_state(message["state"])
        else:
            picker._hear(picker, message, [])
        return {"sent": sent, "state": {"_check": picker._check, "_seen": picker._seen, "_chosen": picker._chosen}}

    picker._checks.loop = picker._reports.loop = None  # playwright's own would be found: work is done at once
    state = {name: getattr(picker, name) for name in ("_map", "_chosen", "_seen", "_check", "_auto")}
    whole = page_html("live", state)
    assert _MODEL in whole
    (tmp_path / "live.html").write_text(whole.replace(_MODEL, _KERNEL), encoding="utf-8")
    page.expose_function("toPython", to_python)
    page.goto((tmp_path / "live.html").as_uri())
    return PickerPage(page, page.locator("body"), picker.n_layers, picker.n_heads)


class PickerPage:
    """root: the element that holds the picker, such as a cell's output."""

    def __init__(self, page: Page, root: Locator, n_layers: int, n_heads: int) -> None:
        self.page, self.n_layers, self.n_heads = page, n_layers, n_heads
        self.root = root.locator(".spt-picker")
        self.map = self.root.locator(".spt-catch").first
        self.text = self.root.get_by_label("the chosen heads as text")
        expect(self.root.locator(".spt-plot .main-svg").first).to_be_visible(timeout=60_000)

    def at(self, head: str | tuple[int, int], dx: float = 0.0, dy: float = 0.0, slot: int = 0) -> tuple[float, float]:
        """The pixel of a cell's centre, or that many cells beside it."""
        layer, place = Head.parse(head)
        catch = self.root.locator(".spt-catch").nth(slot)
        catch.scroll_into_view_if_needed()
        box = catch.bounding_box()
        assert box is not None
        x = box["x"] + box["width"] * (place + 0.5 + dx) / self.n_heads
        return x, box["y"] + box["height"] * (layer + 0.5 + dy) / self.n_layers

    def click(self, head: str | tuple[int, int], slot: int = 0) -> None:
        self.page.mouse.click(*self.at(head, slot=slot))

    def rest(self, head: str | tuple[int, int], slot: int = 0) -> None:
        """The pointer comes to a cell, and stays there."""
        self.page.mouse.move(*self.at(head, slot=slot))

    def box(self, first: str | tuple[int, int], last: str | tuple[int, int], key: str | None = None) -> None:
        """Drags from inside the first cell to inside the last, with a key held."""
        if key:
            self.page.keyboard.down(key)
        self._drag([self.at(first, -0.4, -0.4), self.at(last, 0.4, 0.4)])
        if key:
            self.page.keyboard.up(key)

    def lasso(self, *corners: tuple[float, float]) -> None:
        """Around these (head, layer) points and back to the first."""
        points = [self.at((0, 0), x, y) for x, y in corners]
        self._drag([*points, points[0]])

    def _drag(self, points: list[tuple[float, float]]) -> None:
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for x, y in points[1:]:
            self.page.mouse.move(x, y, steps=4)
        self.page.mouse.up()

    def reset(self) -> None:
        """All controls as at first, and no heads chosen. The history stays."""
        for name in ("signed", "box", "replace"):
            self.press(name)
        if self.root.get_by_label("scores").count():
            self.root.get_by_label("scores").select_option("0")
            self.root.get_by_label("beside").select_option("")
        self.text.fill("")
        self.expect("")

    def press(self, name: str) -> None:
        self.root.get_by_role("radio", name=name, exact=True).click()

    def button(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def expect(self, heads: str) -> None:
        """The heads that the page says are chosen, in this order, and the outline of just these."""
        n = len(HeadSet.parse(heads))
        expect(self.root.locator(".spt-count")).to_contain_text(f"{n} of {self.n_layers * self.n_heads} heads")
        expect(self.text).to_have_value(heads)
        assert self.outlined() == {str(head) for head in HeadSet.parse(heads)}

    def outlined(self, slot: int = 0) -> set[str]:
        """The heads around which there is a line, from the drawn path itself."""
        plot = self.root.locator(".spt-plot").nth(slot)
        corners = plot.evaluate(_OUTLINED)
        return {f"L{round(y)}.H{round(x)}" for x, y in corners}


# Each cell is one "M x,y H..." of the drawn path, in pixels of the plot; its middle, back in heads and layers.
_OUTLINED = """plot => {
    const path = plot.querySelector('.shapelayer path:last-of-type')?.getAttribute('d') ?? '';
    const { _fullLayout: { xaxis, yaxis, _size } } = plot;
    return [...path.matchAll(/M([-\\d.]+),?\\s*([-\\d.]+)H([-\\d.]+)V([-\\d.]+)/g)].map(found => {
        const [left, top, right, bottom] = found.slice(1).map(Number);
        return [xaxis.p2c((left + right) / 2 - _size.l), yaxis.p2c((top + bottom) / 2 - _size.t)];
    });
}"""
