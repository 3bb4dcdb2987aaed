"""What a reader of a page would stumble over, each a function from a page in a browser to its problems.

A page is a `playwright.sync_api.Page`. The functions look, and leave it as it was but for where it is scrolled to.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response

LOOPBACK = "127.0.0.1"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 375, "height": 800}


# ---- loading --------------------------------------------------------------------------------------------------


class Log:
    """What goes wrong while a page, or a context's pages, load and are used. (The browser reaches loopback only.)"""

    def __init__(self, pages: Page | BrowserContext) -> None:
        self.problems: list[str] = []
        pages.on("request", self._asked)
        pages.on("requestfailed", self._failed)
        pages.on("response", self._answered)
        pages.on("console", self._said)
        if isinstance(pages, Page):
            pages.on("pageerror", lambda error: self.problems.append(f"an uncaught error: {error}"))
        else:
            pages.on("weberror", lambda error: self.problems.append(f"an uncaught error: {error.error}"))

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in (LOOPBACK, None):  # None: what is in the page itself
            self.problems.append(f"a request leaves the page: {request.url}")

    def _failed(self, request: Request) -> None:
        # A page that is left while something loads aborts it; that is no fault of the page.
        if urlsplit(request.url).hostname == LOOPBACK and "ERR_ABORTED" not in (request.failure or ""):
            self.problems.append(f"a request fails: {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "assert"):
            self.problems.append(f"the console says: {message.text}")


def settle(page: Page) -> None:
    """Wait until what the page names has loaded, all formulas are set in their fonts, and nothing moves."""
    page.wait_for_load_state()
    page.evaluate("""async () => {
        await window.MathJax?.startup?.promise;
        document.body.getBoundingClientRect(); // a font is asked for when the page is laid out
        await document.fonts.ready;
    }""")
    at_rest(page)


def unfold(page: Page) -> None:
    """Open what is folded away, so that it is looked at as well."""
    page.evaluate("document.querySelectorAll('article details').forEach(d => { d.open = true })")


def fold(page: Page) -> None:
    """Close what can be folded away, as a page is when it opens."""
    page.evaluate("document.querySelectorAll('article details').forEach(d => { d.open = false })")


# ---- formulas -------------------------------------------------------------------------------------------------

_FORMULAS = """() => [...document.querySelectorAll('.math')].map(math => ({
    set: math.querySelectorAll('mjx-container').length,
    wrong: math.querySelectorAll('mjx-merror, merror').length,
    raw: [...math.querySelectorAll('mjx-assistive-mml')].map(m => m.textContent).join(' '),
    text: math.textContent.slice(0, 80),
}))"""

_VISIBLE_TEXT = """() => {
    const skip = 'script, style, noscript, template, code, pre, .highlight, mjx-container, .math';
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode())
        if (node.data.trim() && !node.parentElement.closest(skip)) found.push(node.data);
    return found;
}"""

_TEX = re.compile(r"\$\$|\\[()\[\]]|\\[a-zA-Z]{2,}|\$[^$\n]*[\\^_{}][^$\n]*\$")


def formulas(page: Page) -> Iterator[str]:
    """Formulas that are not set, that MathJax could not read, and TeX left in the text."""
    for formula in page.evaluate(_FORMULAS):
        if formula["set"] == 0:
            yield f"a formula is not set: {formula['text']!r}"
        elif formula["wrong"]:
            yield f"MathJax cannot read: {formula['text']!r}"
        elif "\\" in formula["raw"]:  # an unknown command is shown in red, as it is
            yield f"MathJax does not know a command: {formula['raw']!r}"
    for text in page.evaluate(_VISIBLE_TEXT):
        if found := _TEX.search(text):
            yield f"TeX in the text: {found[0]!r} in {text.strip()[:80]!r}"


# ---- layout and pictures --------------------------------------------------------------------------------------

# The widest letters that any machine's fonts would give. A letter of a fixed-pitch font takes 0.6 em in nearly all of
# them, and a space between letters makes it 0.68 em; the widest of the usual fonts for text (Verdana, DejaVu Sans)
# need less than 0.6 em on average. (`monospace` is named twice, as alone it would make the letters smaller.) MathJax's
# letters come with the book; it fits their height to the text's small letters, by up to 124 % for those two fonts.
_WIDE_LETTERS = """
    :not(mjx-container *) { font-family: monospace, monospace !important; letter-spacing: 0.08em !important }
    mjx-container { font-size: 130% !important; letter-spacing: 0 !important }
"""


@contextlib.contextmanager
def on_a_phone(page: Page, wide_letters: bool = False) -> Iterator[None]:
    """The page as a phone shows it, unfolded, in the machine's fonts or in wider letters than any would have."""
    unfold(page)
    page.set_viewport_size(NARROW)
    style = page.add_style_tag(content=_WIDE_LETTERS if wide_letters else " ")
    at_rest(page)
    try:
        yield
    finally:
        style.evaluate("style => style.remove()")
        page.set_viewport_size(WIDE)


# Whether an element can be scrolled to sideways, as it or what it stands in scrolls in itself.
_REACHED = """const reached = e => {
    for (; e && e !== document.body; e = e.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth) return true;
    return false;
};"""

_WIDER = f"""() => {{
    {_REACHED}
    const root = document.scrollingElement, wide = root.clientWidth;
    if (root.scrollWidth <= wide) return [];
    const culprits = [...document.body.querySelectorAll('*')].filter(e => {{
        const box = e.getBoundingClientRect();
        const inside = getComputedStyle(e).overflowX === 'visible' ? e.scrollWidth : 0;
        return Math.max(box.right, box.left + inside) > wide + 1 && !reached(e);
    }});
    return culprits.filter(e => !culprits.some(other => other !== e && e.contains(other))).slice(0, 3)
        .map(e => e.outerHTML.slice(0, 120)).concat('scrolls to ' + root.scrollWidth);
}}"""


def sideways_scroll(page: Page) -> list[str]:
    """What makes a page wider than its window."""
    return [f"wider than the window: {found}" for found in page.evaluate(_WIDER)]


_CUT_FORMULAS = f"""() => {{
    {_REACHED}
    const wide = document.scrollingElement.clientWidth;
    return [...document.querySelectorAll('article mjx-container')].filter(e => {{
        const boxes = [e, ...e.querySelectorAll('mjx-math')].map(e => e.getBoundingClientRect());
        return boxes.some(box => box.left < -1 || box.right > wide + 1) && !reached(e);
    }}).map(e => e.textContent.slice(0, 80));
}}"""


def cut_formulas(page: Page) -> list[str]:
    """Formulas that leave the window and can not be scrolled to."""
    return [f"a formula is cut off: {found!r}" for found in page.evaluate(_CUT_FORMULAS)]


_SQUEEZED_FORMULAS = """() => [...document.querySelectorAll('article mjx-container:not([display])')].filter(e => {
    const line = e.closest('p, li, dd, dt, td, th, summary, h1, h2, h3, h4');
    if (!line || !e.getClientRects().length) return false;
    const style = getComputedStyle(line), em = parseFloat(style.fontSize);
    const room = line.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const parts = [...e.querySelector('mjx-math').children].map(part => part.getBoundingClientRect().width);
    return parts.reduce((a, b) => a + b, 0) > e.clientWidth + 1 && e.clientWidth < room - 4 * em;
}).map(e => e.textContent.trim().slice(0, 80))"""


def squeezed_formulas(page: Page) -> list[str]:
    """Formulas within a line that are broken or cut although the line has room for them."""
    return [f"a formula has room and is squeezed: {found!r}" for found in page.evaluate(_SQUEEZED_FORMULAS)]


_MUTE_FORMULAS = """() => [...document.querySelectorAll('article div.math')].flatMap(math => {
    const formula = math.querySelector('mjx-container'), number = math.querySelector('.eqno');
    if (!formula?.getClientRects().length) return [];
    const [box, style] = [formula.getBoundingClientRect(), getComputedStyle(formula)];
    const said = [];
    const scrolls = formula.scrollWidth > formula.clientWidth + 1;
    if (scrolls && !/local.*scroll/.test(style.backgroundAttachment)) said.push('scrolls without a cue');
    if (number && number.getBoundingClientRect().top < box.bottom - 1) said.push('has its number beside it');
    const around = getComputedStyle(math.parentElement);
    const room = math.parentElement.clientWidth - parseFloat(around.paddingLeft) - parseFloat(around.paddingRight);
    if (box.width < room - 1) said.push('does not have the whole width');
    return said.map(what => `${math.id || formula.textContent.slice(0, 60)} ${what}`);
})"""

_SCROLLING_FORMULAS = """() => [...document.querySelectorAll('article div.math mjx-container')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.closest('div.math').id || e.textContent.slice(0, 60))"""


def mute_formulas(page: Page) -> list[str]:
    """On a phone: displayed formulas with less than the whole width, or that scroll and do not look like it."""
    return [f"a formula {found}" for found in page.evaluate(_MUTE_FORMULAS)]


def scrolling_formulas(page: Page) -> list[str]:
    """Displayed formulas that are wider than the page."""
    return list(page.evaluate(_SCROLLING_FORMULAS))


# The marks at FF.. are the full-width ! ) , : ; ? of Chinese text, as escapes, since they look like their ASCII twins.
_STRANDED = r"""() => {
    const found = [], skip = 'pre, code, .sig, script, style, svg, mjx-container, .explore, .animation';
    const marks = /^[,.;:!?)\]”’。、」』\uFF01\uFF09\uFF0C\uFF1A\uFF1B\uFF1F]/;
    const walker = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (!marks.test(node.data) || node.parentElement.closest(skip)) continue;
        const block = node.parentElement.closest('p, li, dd, dt, td, th, summary, figcaption, h1, h2, h3, h4');
        const range = document.createRange();
        range.setEnd(node, 1);
        range.setStart(node, 0);
        const mark = range.getBoundingClientRect();
        if (!block || !mark.width) continue;
        const left = block.getBoundingClientRect().left + parseFloat(getComputedStyle(block).paddingLeft);
        if (mark.left < left + 3) found.push(block.textContent.trim().slice(0, 60) + ' … ' + node.data.slice(0, 20));
    }
    return found;
}"""


def stranded_punctuation(page: Page) -> list[str]:
    """Lines that begin with the punctuation of the line above."""
    return [f"a line begins with punctuation: {found!r}" for found in page.evaluate(_STRANDED)]


_CLIPPED_CELLS = """() => [...document.querySelectorAll('article :is(td, th)')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 80))"""


def clipped_cells(page: Page) -> list[str]:
    """Cells of tables that are too narrow for what stands in them."""
    return [f"a cell is too narrow: {found!r}" for found in page.evaluate(_CLIPPED_CELLS)]


def figures_without_words(page: Page) -> Iterator[str]:
    """Figures whose alt text is missing, a path or a word or two."""
    for alt in page.evaluate("() => [...document.querySelectorAll('article img')].map(i => i.getAttribute('alt'))"):
        said = len((alt or "").split()) + len(re.findall("[\u4e00-\u9fff]", alt or "")) // 2  # two characters a word
        if not alt or said < 4 or re.search(r"_images|\.(png|jpe?g|svg|gif)\b", alt):
            yield f"a figure is described by {alt!r}"


_LIFELESS = """() => [...document.querySelectorAll('.explore')].filter(host => {
    const box = host.getBoundingClientRect(), inside = box.left >= 0 && box.right <= innerWidth + 1;
    return !('alive' in host.dataset && host.values && inside && host.scrollWidth <= host.clientWidth + 1);
}).map(host => host.dataset.figure)"""


def lifeless(page: Page) -> list[str]:
    """Figures that should move and are still pictures, on a phone or a wide window, or are wider than it."""
    found = []
    for size in (NARROW, {"width": 1400, "height": 900}):
        page.set_viewport_size(size)
        at_rest(page)
        found += [f"{figure}, {size['width']} wide" for figure in page.evaluate(_LIFELESS)]
    return found


_FILTERS = """image => {
    let filters = '';
    for (let e = image; e; e = e.parentElement) filters += getComputedStyle(e).filter;
    return filters;
}"""


def unreadable_figures(page: Page) -> Iterator[str]:
    """Figures that are not seen as dark ink on a light sheet, taken from the page as it is shown.

    The sheet is the most frequent colour of the figure; the ink is its twentieth darkest pixel, about what one letter
    takes. Their contrast must be 4.5 (WCAG 2.2, 1.4.3). An opaque white ground holds this on a dark page. A transparent
    one does not, as the page shows through behind black letters. An inverted figure is refused: the text names colours.
    """
    unfold(page)
    for i, image in enumerate(page.locator("article img").all()):
        image.scroll_into_view_if_needed()
        name = image.get_attribute("alt") or f"number {i}"
        filters = image.evaluate(_FILTERS)
        if "invert" in filters or "hue-rotate" in filters:
            yield f"the page changes a figure's colours ({name})"
        sheet, ink = sheet_and_ink(image.screenshot())
        if sheet < 0.4 or contrast(sheet, ink) < 4.5:
            yield f"sheet {sheet:.2f}, ink {ink:.2f}: contrast {contrast(sheet, ink):.1f}, at least 4.5 ({name})"


def sheet_and_ink(png: bytes) -> tuple[float, float]:
    """The relative luminances of a picture's most frequent colour and of its twentieth darkest pixel."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.crop((8, 8, picture.width - 8, picture.height - 8))  # the page shows at rounded corners
    pixels = np.asarray(picture).reshape(-1, 3)
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)  # WCAG's definition
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    codes, counts = np.unique(pixels.astype(int) @ (65536, 256, 1), return_counts=True)
    sheet = luminance[np.argmax(pixels.astype(int) @ (65536, 256, 1) == codes[np.argmax(counts)])]
    return float(sheet), float(np.sort(luminance)[20])


def contrast(one: float, other: float) -> float:
    """The contrast ratio of two luminances (WCAG 2.2)."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


# ---- finding one's way ----------------------------------------------------------------------------------------

_SEARCHES = """() => [...document.querySelectorAll('input[type=search], .search-button-field, .search-button')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width > 0)
    .map(e => e.outerHTML.slice(0, 100))"""


def search_boxes(page: Page) -> list[str]:
    """The search boxes that are seen."""
    return list(page.evaluate(_SEARCHES))


_TARGET = """id => {
    const target = document.getElementById(id);
    if (!target) return 'no such place';
    const box = target.getBoundingClientRect(), x = box.left + Math.min(20, box.width / 2);
    if (box.height === 0) return 'nothing to see';
    if (box.top < -1 || box.bottom > innerHeight + 1) // a part of a pixel is no matter
        return `out of view, from ${box.top} to ${box.bottom} of ${innerHeight}`;
    const seen = document.elementFromPoint(x, box.top + 2);
    return target.contains(seen) || seen?.contains(target) ? '' : 'hidden behind ' + seen?.outerHTML.slice(0, 80);
}"""


def lands_on(page: Page, identity: str) -> str:
    """What keeps the element with this id from being seen, once the page has come to rest; nothing if it is seen."""
    at_rest(page)
    return str(page.evaluate(_TARGET, identity))


def at_rest(page: Page) -> None:
    """Wait until five frames in a row show the same scroll position and height."""
    page.evaluate("""() => new Promise(done => {
        let before = '', same = 0;
        const look = () => {
            const now = [scrollY, document.documentElement.scrollHeight].join();
            same = now === before ? same + 1 : 1;
            before = now;
            if (same === 5) done(); else requestAnimationFrame(look);
        };
        look();
    })""")


EQUATION_LINK = 'article a[href*="#equation-"]:not(.headerlink)'


def equation_links(page: Page) -> list[tuple[str, str]]:
    """The links to equations: (address of the page, id of the equation), each once, in order."""
    links = page.evaluate(f"() => [...document.querySelectorAll('{EQUATION_LINK}')].map(a => a.href)")
    return list(dict.fromkeys(tuple(link.split("#")) for link in links))


def lost_equation_links(page: Page, asked: Iterable[str] = (), leave: bool = True) -> Iterator[str]:
    """Links to equations that do not lead to where the equation is seen.

    Every link within this page is clicked. Of this page's equations those that other pages link to, `asked`, are then
    asked for by their address, which is what a click there does. With `leave` a link to another page is clicked last.
    """
    unfold(page)
    home = page.url.split("#")[0]
    links = equation_links(page)
    for _, identity in [link for link in links if link[0] == home]:
        page.locator(f'{EQUATION_LINK}[href$="#{identity}"]').first.click()
        if problem := lands_on(page, identity):
            yield f"{identity}: {problem}"
    for identity in sorted({*asked} - {link[1] for link in links if link[0] == home}):
        page.evaluate("id => { location.hash = id }", identity)
        if problem := lands_on(page, identity):
            yield f"{identity}, from elsewhere: {problem}"
    for address, identity in [link for link in links if link[0] != home and leave][-1:]:
        page.locator(f'{EQUATION_LINK}[href$="{address.split("/")[-1]}#{identity}"]').first.click()
        page.wait_for_url(f"{address}#{identity}")
        settle(page)
        if problem := lands_on(page, identity):
            yield f"{address}#{identity}: {problem}"


# ---- the contents ---------------------------------------------------------------------------------------------

_MARKED = """() => {
    const links = [...document.querySelectorAll('nav.page-toc a[href^="#"]')];
    const marked = links.filter(link => link.classList.contains('active'));
    const said = links.filter(link => link.hasAttribute('aria-current'));
    return [marked, said].map(all => all.map(link => decodeURIComponent(link.hash.slice(1))));
}"""

_PLACES = """() => [...document.querySelectorAll('nav.page-toc a[href^="#"]')].map(link => {
    const id = decodeURIComponent(link.hash.slice(1));
    return [id, document.getElementById(id).getBoundingClientRect().top];
})"""


def marked_section(page: Page) -> str | None:
    """The section that the contents mark: the one with the mark, which those who do not see it are told of as well."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    marked, said = page.evaluate(_MARKED)
    assert marked == said, (marked, said)
    assert len(marked) <= 1, marked
    return marked[0] if marked else None


def stale_marks(page: Page, jumps: int = 9) -> Iterator[str]:
    """Places of a page, reached in one leap, at which the contents mark another section than the one in view."""
    reach = page.evaluate("document.documentElement.scrollHeight - innerHeight")
    high = page.viewport_size["height"]
    for i in range(jumps):
        y = reach * ((i * 4) % jumps) / (jumps - 1)  # back and forth
        page.evaluate("y => scrollTo({ top: y, behavior: 'instant' })", y)
        marked = marked_section(page)
        tops = page.evaluate(_PLACES)
        in_time = [name for name, top in tops if top < 0.1 * high]
        late = [name for name, top in tops if top > (0.3 if y < reach - high else 1.0) * high]
        if marked in late or (marked is None and in_time):
            yield f"at {y:.0f} px the contents mark {marked}, which is not reached"
        elif marked and in_time and tops.index(next(t for t in tops if t[0] == marked)) < len(in_time) - 1:
            yield f"at {y:.0f} px the contents mark {marked}, and {in_time[-1]} has come"


def unmarked_links(page: Page, most: int = 12) -> Iterator[str]:
    """Links within a page, `most` of them evenly spread, to a section that the contents do not mark then."""
    places = page.evaluate(_PLACES)
    for name, _ in places[:: -(-len(places) // most)]:
        page.evaluate("id => { location.hash = id }", name)
        at_rest(page)
        if (marked := marked_section(page)) != name:
            yield f"#{name}: the contents mark {marked}"


# ---- access ---------------------------------------------------------------------------------------------------


COLOURS = ["color-contrast", "link-in-text-block"]  # what a theme can change; most of the time that axe takes


def barriers(
    page: Page, colours: bool = True, colours_only: bool = False, within: str | None = None, code: bool = True
) -> Iterator[str]:
    """What axe-core finds that is serious or critical for people with disabilities.

    With `colours_only` only the contrast is asked for, without `colours` all but that. `within`, a selector, takes a
    part of the page. Without `code` the highlighted code is passed over, and the signatures of functions, which are a
    list of code: half of the time, and alike on all pages.
    """
    unfold(page)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if colours_only:
        options["runOnly"] = COLOURS
    elif not colours:
        options["rules"] = {rule: {"enabled": False} for rule in COLOURS}
    part = within if code else {"include": [[within or "html"]], "exclude": [["div.highlight"], ["dt.sig"]]}
    found_by_axe = Axe().run(page, part, options=options)
    violations: list[dict[str, Any]] = found_by_axe.response["violations"]
    for found in violations:
        if found["impact"] in ("serious", "critical"):
            where = "; ".join(json.dumps(node["target"]) for node in found["nodes"][:5])
            yield f"{found['impact']}: {found['help']} ({found['id']}), {len(found['nodes'])} times: {where}"
