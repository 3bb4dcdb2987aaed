"""Figures that move, in a browser: dragged, keyed, driven to the ends of their sliders, they say what Python says."""

import functools
import inspect
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from playwright.sync_api import Page
from probes import NARROW, WIDE, Log, barriers, contrast, lifeless, on_a_phone, settle, sideways_scroll
from site_map import LIVE, PAGES, built

from diffnotes import data, ddim, reverse, schedule
from diffnotes.book.explore import CODE, PAGE, SCRIPTS, STYLE, explore
from diffnotes.guidance import guided
from diffnotes.mixture import DataMixture
from tools import stills
from tools.stills import FIGURES, LINEAR, WALK

pytestmark = pytest.mark.browser

CHOICES = ("first-minute", "reverse-step", "drift", "jump", "steps")
DRAGGED = ("two-bells", "root", "reverse-step", "drift", "jump", "forty-points")


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


# no icon, so that no browser asks for one
HEAD = '<!doctype html><html lang="en" data-theme="{theme}"><head><title>Figures</title><link rel="icon" href="data:,">'


def page_of(body: str, head: str = "", theme: str = "light") -> str:
    view = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    # with the ground that the figures have, as the book's pages
    return f"{HEAD.format(theme=theme)}{view}{head}</head><body><main><h1>Figures</h1>{body}</main></body></html>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages with each figure as a live notebook shows it, with all of them, and as the book has them."""
    folder = tmp_path_factory.mktemp("figures")
    shutil.copytree(PAGE, folder / "_static")
    live = {name: explore(name).data for name in FIGURES}
    bare = {name: re.sub(CODE, "", body, flags=re.DOTALL) for name, body in live.items()}
    in_head = f'<link rel="stylesheet" href="_static/{STYLE}">' + "".join(
        f'<script src="_static/{script}"></script>' for script in SCRIPTS
    )
    pages = {name: page_of(body) for name, body in live.items()}
    for theme in ("light", "dark"):
        pages[f"all-{theme}"] = page_of("".join(live.values()), theme=theme)
        pages[f"book-{theme}"] = page_of("".join(bare.values()), in_head, theme)
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def figures(serve, folder) -> str:
    return serve(folder)


@pytest.fixture(params=FIGURES)
def name(request) -> str:
    return request.param


@pytest.fixture
def start(figures, open_page):
    """A function that gives the page of a figure, the figure as at its start: the page is loaded once and kept."""

    def go(name: str) -> tuple[Page, Log]:
        page, log = open_page(f"{figures}/{name}.html", keep=True)
        page.set_viewport_size(WIDE)
        page.evaluate("""async () => {
            const html = await (await fetch(location)).text();
            const still = new DOMParser().parseFromString(html, 'text/html').querySelector('.explore');
            document.querySelector('.explore').replaceWith(document.adoptNode(still));
            explore.draw.start();
            scrollTo(0, 0);
        }""")
        page.wait_for_function("document.querySelector('.explore').values")
        page.mouse.move(0, 0)
        return page, log

    return go


def close(ours, theirs, what="", least=0.0) -> None:
    """Equal to 1e-12 of the largest number of an array, or of `least`, the numbers that it is a difference of."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert ours.shape == theirs.shape, f"{what}: shapes {ours.shape} and {theirs.shape}"
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=least)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * size, err_msg=what)


# states are come back to
ring_samples, guided_samples, first_paths = map(
    functools.cache, (stills.ring_samples, stills.guided_samples, stills.first_paths)
)

# ---- what each figure says, by Python --------------------------------------------------------------------------


def two_bells(state):
    t, half = state["t"], state["half"]
    right = torch.special.ndtr(half * LINEAR.snr[t].sqrt())
    return {"alphaBar": LINEAR.alpha_bars[t], "snr": LINEAR.snr[t], "right": right}


def root(state):
    power, beta, v = state["power"], state["beta"], [state["start"]]
    for _ in range(200):
        v.append((1 - beta) ** (2 * power) * v[-1] + beta)
    limit = beta / (1 - (1 - beta) ** (2 * power)) if power else math.inf
    return {"start": v[0], "end": v[-1], "limit": limit}


def reverse_step(state):
    beta, steps = state["beta"], stills.two_steps(state["bar"], state["beta"])
    mixture = stills.line_data(state["mirrored"])
    back = mixture.reverse_posterior(steps, row(state["x"]), 2)
    mean, variance = back.mean[0, 0], back.variance[0, 0]
    grid = (torch.arange(3601, dtype=torch.float64) - 1800) / 200
    log_q = back.log_prob(grid[:, None, None])[:, 0]
    best = torch.distributions.Normal(mean, variance.sqrt()).log_prob(grid)
    peaks = ((log_q[1:-1] > log_q[:-2]) & (log_q[1:-1] > log_q[2:])).sum()
    y = ((torch.arange(801, dtype=torch.float64) - 400) / 100).requires_grad_()
    home = mixture.diffuse(steps, 1)
    (slope,) = torch.autograd.grad(home.log_prob(y[:, None]).sum(), y, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), y)
    kl = torch.trapezoid(log_q.exp() * (log_q - best), grid)
    edge = beta / (1 - beta) * curve.max()
    return {"kl": kl, "edge": edge, "number": peaks, "mean": mean, "variance": variance}


def drift(state):
    t, x_t = state["t"], row(*state["x"])
    if t == 0:
        return {"x": x_t[0, 0], "y": x_t[0, 1]}
    roll = data.swiss_roll_mixture(200)
    whole = reverse.drift(WALK, roll.eps(WALK), x_t, t)[0]
    a = torch.expm1(-torch.log1p(-WALK.betas[t]) / 2) * x_t[0]
    guess = roll.denoise(WALK, x_t, t)[0]
    parts = {"aX": a[0], "aY": a[1], "bX": (whole - a)[0], "bY": (whole - a)[1], "dX": whole[0], "dY": whole[1]}
    return {**parts, "noise": WALK.posterior_variances[t].sqrt(), "guess": guess, "x": x_t[0]}


def two_states(state):
    terms, nll, gap = stills.chain_terms([state["step1"], state["step2"], state["step3"]])
    values = {name.replace("_", ""): value for name, value in terms.items()}
    values |= {"nll": nll, "gap": gap, "bound": nll + gap}
    return {f"{name}_{x}": value[x] for name, value in values.items() for x in (0, 1)}


def jump(state):
    t, s, eta, x_t = state["t"], state["s"], state["eta"], row(*state["x"])
    mixture, z = data.mixture_2d(), stills.normals(state["seed"], 1, 2)
    eps, guess = mixture.eps(LINEAR)(x_t, t), mixture.denoise(LINEAR, x_t, t)
    whole, room = ddim.ddim_sigma(LINEAR, t, s, 1.0) ** 2, LINEAR.one_minus_alpha_bars[s]
    sigma2, turn2 = (eta if state["slip"] else eta**2) * whole, room - eta**2 * whole
    step = ddim.ddim_step(LINEAR, x_t, eps, t, s, eta, z)
    x_s = (step.x0_part + step.direction_part + sigma2.sqrt() * z)[0]
    values = {"turn2": turn2, "sigma2": sigma2, "total": turn2 + sigma2, "room": room}
    return {**values, "guessX": guess[0, 0], "guessY": guess[0, 1], "x": x_s[0], "y": x_s[1]}


def steps(state):
    points, best = ring_samples(**state), ring_samples(**state | {"steps": 200})
    off = torch.cdist(points, data.ring().means).amin(1).square().mean().sqrt()
    moved = (points - best).square().sum(1).mean().sqrt()
    return {"moved": moved, "off": off, "points": points, "ideal": 0.1 * math.sqrt(2)}


def garments(state):
    S, eta = state["steps"], state["eta"]
    pixels = np.asarray(stills.Image.open(stills.GARMENTS), float) / 255
    table = pixels.reshape(4, 28, 4, 6 * 28)
    row, block = stills.SHEET.steps.index(S), stills.SHEET.etas.index(eta)
    moved = np.sqrt(np.mean((table[row, :, block] - table[3, :, block]) ** 2))
    value, error = state["frechet"][f"{S}/{eta:g}"]
    return {"steps": S, "eta": eta, "moved": moved, "frechet": value, "error": error}


def forty_points(state):
    x_t, t = row(*state["x"]), state["t"]
    few, roll = DataMixture(stills.swiss_roll(40, 21)), data.swiss_roll_mixture(200)
    weights = few.responsibilities(LINEAR, x_t, t)[0]
    by, exact = few.denoise(LINEAR, x_t, t)[0], roll.denoise(LINEAR, x_t, t)[0]
    number = torch.special.entr(weights).sum().exp()
    return {"most": weights.max(), "number": number, "apart": (by - exact).norm(), "by": by, "exact": exact}


def guidance(state):
    values = {}
    for name, x in guided_samples(state["w"]).items():
        spread = (x - x.mean(0)).square().sum(1).mean().sqrt()
        values |= {f"{name.lower()}Width": spread, f"{name.lower()}Centre": x[:, 0].mean(), f"made.{name.lower()}": x}
    return values


def first_minute(state):
    there, back = first_paths(state["sampler"])
    at = state["at"]
    t, points = (at, there[at]) if at <= WALK.T else (2 * WALK.T - at, back[at - WALK.T])
    return {"alphaBar": WALK.alpha_bars[t], "noise": WALK.one_minus_alpha_bars[t], "points": points}


READINGS = {name: globals()[name.replace("-", "_")] for name in FIGURES}

# Nats that are differences of logarithms of order one, shares of a room of order one, and points in the plane: from
# t = T a guess is a difference of numbers a hundred times as large.
NATS, PLACES = ["kl", "gap", "L3", "L2", "L1", "L0"], ["points", "by", "exact", "guess", "guessX", "guessY"]
DIFFERENCES = dict.fromkeys([*NATS, "turn2", "moved", "apart", *PLACES], 1.0)


def look(page: Page) -> tuple[dict, dict, str]:
    """The state of the only figure of a page, what it says in full, and as text."""
    return page.evaluate("""() => {
        const host = document.querySelector('.explore'), text = host.querySelector('.readout').innerText;
        return [host.state, host.values, text];
    }""")


def say(value: float) -> str:
    """A number as the figures print it: three digits."""
    size = abs(value)
    if math.isinf(value):
        text = "∞"
    elif float(value).is_integer() or size >= 999.5:
        text = str(round(value))
    elif size < 5e-15:
        text = "0"
    elif size < 1e-3:
        text = re.sub(r"e-0*", "e-", f"{value:.1e}")
    else:
        text = f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def holds(page: Page, name: str) -> dict:
    """What the figure says is what Python says for its state, and it is what it prints."""
    state, values, text = look(page)
    for key, expected in READINGS[name](state).items():
        ours = values
        for part in key.split("."):
            ours = ours[part]
        close(ours, expected, f"{key} at {state}", least=DIFFERENCES.get(key.split("_")[0], 0.0))
    words = page.evaluate("n => explore.figures[n].words.en", name)
    lines = words.get("arrived", words["says"]) if state.get("t") == 0 else words["says"]
    for key in re.findall(r"\{(\w+)\}", "".join(lines)):
        if isinstance(values[key], float | int):
            assert say(values[key]) in text, f"{key}: {say(values[key])} is not in {text!r}"
    return state


# ---- driven by a reader ----------------------------------------------------------------------------------------


def test_it_starts_from_its_state(name, figures, open_page):
    page, log = open_page(f"{figures}/{name}.html", keep=True)
    state = holds(page, name)
    wanted = json.loads(json.dumps({k: p.default for k, p in inspect.signature(FIGURES[name]).parameters.items()}))
    assert {key: state[key] for key in wanted} == wanted
    assert not log.problems, log.problems


def test_sliders_to_their_ends_and_by_key(name, start):
    page, log = start(name)
    sliders = page.locator(".explore input[type=range]").all()
    for slider in sliders:
        for key in ("End", "ArrowLeft", "Home", "ArrowRight"):
            before = slider.input_value()
            slider.press(key)
            assert slider.input_value() != before or key in ("End", "Home")
            holds(page, name)
    for slider in sliders:  # all at the same end
        slider.press("End")
        holds(page, name)
    assert not log.problems, log.problems


def test_choices_and_buttons(name, start):
    page, log = start(name)
    controls = page.locator(".explore :is(input[type=radio], input[type=checkbox], button)")
    assert bool(controls.count()) is (name in CHOICES)
    if name == "first-minute":  # where the choice matters
        page.locator("input[type=range]").fill("60")
    for choice in page.locator(".explore input[type=radio]").all():
        choice.check()
        holds(page, name)
    for box in page.locator(".explore input[type=checkbox]").all():
        for wanted in (True, False):
            box.set_checked(wanted)
            holds(page, name)
    for button in page.locator(".explore button").all():
        if button.inner_text() != "play":  # that has a test of its own
            button.press("Enter")
            holds(page, name)
    assert not log.problems, log.problems


@pytest.mark.parametrize("name", DRAGGED)
def test_points_are_dragged_and_keyed(name, start):
    page, log = start(name)
    handles = page.get_by_role("slider").and_(page.locator(".handle")).all()
    assert handles
    for handle in handles:
        handle.scroll_into_view_if_needed()
        box = handle.locator(".spot").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        before = holds(page, name)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 40, y - 28)  # in one leap, so that the point is left behind unless it is held
        page.mouse.up()
        after = holds(page, name)
        moved = handle.locator(".spot").bounding_box()
        assert after != before
        along = handle.get_attribute("aria-valuetext")
        assert abs(moved["x"] - box["x"] + 40) < 0.6 or abs(moved["y"] - box["y"] + 28) < 0.6
        page.mouse.move(x, y)  # no longer held
        assert look(page)[0] == after
        said = {along}
        for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "PageDown"):
            before = look(page)[0]
            handle.press(key)
            assert holds(page, name) != before
            said.add(handle.get_attribute("aria-valuetext"))
        assert len(said) > 2
        for key in ("ArrowRight", "ArrowDown"):  # to the edge, and not beyond
            for _ in range(25):
                handle.press(f"Shift+{key}")
        holds(page, name)
    assert not log.problems, log.problems


@pytest.mark.parametrize("name", DRAGGED)
def test_points_follow_a_finger(name, figures, browser):
    context = browser.new_context(viewport={"width": 375, "height": 500}, has_touch=True)
    page = context.new_page()
    page.goto(f"{figures}/{name}.html")
    handle = page.locator(".handle").first
    page.evaluate("scrollTo(0, 60)")
    box = handle.locator(".spot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before, scrolled = look(page)[0], page.evaluate("scrollY")
    finger = context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": x + 9, "y": y - 9}]),  # beside the spot, as fingers are
        ("touchMove", [{"x": x - 10, "y": y - 30}]),
        ("touchMove", [{"x": x - 20, "y": y - 40}]),
        ("touchEnd", []),
    ):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert holds(page, name) != before
    assert page.evaluate("scrollY") == scrolled
    context.close()


def test_t_stays_above_s(start):
    page, _ = start("jump")
    t, s = page.locator("input[type=range]").all()[:2]
    s.fill("700")
    assert [look(page)[0][key] for key in "ts"] == [701, 700]
    t.fill("90")
    assert [look(page)[0][key] for key in "ts"] == [90, 89]
    holds(page, "jump")


def test_steps_of_a_walk_lead_to_the_data(start):
    page, _ = start("drift")
    start = look(page)[0]
    for button, fresh in (("step", True), ("step without noise", False)):
        state = look(page)[0]
        x, t = row(*state["x"]), state["t"]
        eps = data.swiss_roll_mixture(200).eps(WALK)(x, t)
        z = stills.normals(state["seed"], 41, 2)[t] if fresh else torch.zeros(2)
        expected = reverse.p_mean(WALK, x, t, eps) + WALK.posterior_variances[t].sqrt() * z
        page.get_by_role("button", name=button, exact=True).click()
        close(holds(page, "drift")["x"], expected[0])
    for _ in range(25):
        page.get_by_role("button", name="step", exact=True).click()
    assert holds(page, "drift")["t"] == 0
    assert "arrived" in page.locator(".readout").inner_text()
    page.get_by_role("button", name="start over").click()
    assert {key: look(page)[0][key] for key in "xt"} == {key: start[key] for key in "xt"}


def test_the_first_page_plays_only_when_asked(start):
    page, _ = start("first-minute")
    page.wait_for_timeout(300)
    assert look(page)[0]["at"] == 0
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.explore').state.at > 3")
    page.get_by_role("button", name="pause").click()
    at = look(page)[0]["at"]
    page.wait_for_timeout(300)
    assert look(page)[0]["at"] == at
    page.locator("input[type=range]").fill("79")
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.explore').state.at === 80")
    page.get_by_role("button", name="play").wait_for()  # at its end it stops


STATES = "JSON.stringify([...document.querySelectorAll('.explore')].map(host => host.state))"


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_want_it_still(motion, figures, browser):
    """And for the others what plays is seen to move."""
    context = browser.new_context(reduced_motion=motion)
    page = context.new_page()
    page.goto(f"{figures}/all-light.html")
    page.wait_for_function("[...document.querySelectorAll('.explore')].every(host => host.values)")
    buttons = page.get_by_role("button", name="play", exact=True)
    assert buttons.count() == (0 if motion == "reduce" else 1)
    for button in buttons.all():
        button.click()
    before = page.evaluate(STATES)
    if motion == "reduce":
        page.wait_for_timeout(300)
        assert page.evaluate(STATES) == before
    else:
        page.wait_for_function(f"before => {STATES} !== before", arg=before)
    context.close()


# ---- on every page, for every reader ----------------------------------------------------------------------------


@pytest.fixture(params=["all", "book"])
def kind(request) -> str:
    """With the code in each figure, as in a live notebook, or loaded once, as in the book."""
    return request.param


@pytest.fixture(params=["light", "dark"])
def scheme(request) -> str:
    return request.param


def test_all_come_to_life_and_ask_nothing_of_the_outside(kind, scheme, figures, open_page):
    page, log = open_page(f"{figures}/{kind}-{scheme}.html", scheme, keep=True)
    assert page.locator(".explore[data-alive]").count() == len(FIGURES)
    assert page.locator(".explore img").count() == 0
    assert page.evaluate("[...document.querySelectorAll('.explore')].every(host => host.values)")
    assert not log.problems, log.problems


def test_nobody_is_shut_out(scheme, figures, open_page):
    page, _ = open_page(f"{figures}/all-{scheme}.html", scheme, keep=True)
    assert not (found := list(barriers(page))), "\n".join(found)


def test_every_control_has_a_name_and_a_focus_to_see(figures, open_page):
    page, _ = open_page(f"{figures}/all-light.html", keep=True)
    controls = page.locator(".explore :is(input, button, .handle)").all()
    assert len(controls) > 40
    names = page.evaluate("""() => [...document.querySelectorAll('.explore :is(input, button, .handle)')]
        .map(e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent)""")
    assert all(name.strip() for name in names), names
    handle = page.locator(".handle").first
    page.locator("body").press("Tab")  # from here on the keyboard leads
    handle.focus()
    assert handle.locator(".halo").evaluate("e => getComputedStyle(e).strokeWidth") == "2px"


SMALL_LETTERS = """() => [...document.querySelectorAll('.explore :is(text, span, p, output, button, label)')]
    .filter(e => e.textContent && parseFloat(getComputedStyle(e).fontSize) < 11.5)
    .map(e => e.outerHTML.slice(0, 80))"""


def test_small_letters_are_found(browser):
    page = browser.new_page()
    page.set_content("<div class='explore'><p>large</p><span style='font-size: 9px'>small</span></div>")
    assert page.evaluate(SMALL_LETTERS) == ['<span style="font-size: 9px">small</span>']
    page.close()


@pytest.mark.parametrize("letters", ["the machine's", "wide"])
def test_a_phone_does_not_scroll_sideways(letters, scheme, figures, open_page):
    page, _ = open_page(f"{figures}/all-{scheme}.html", scheme, keep=True)
    with on_a_phone(page, wide_letters=letters == "wide"):
        found = sideways_scroll(page)
        small = page.evaluate(SMALL_LETTERS)
    assert not found, found
    assert not small, small


def test_nothing_below_is_moved(name, start):
    """The height of a figure is the same wherever its sliders stand, on a wide window and on a phone."""
    page, _ = start(name)
    for width in (1000, 375):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        heights = {page.locator(".explore").bounding_box()["height"]}
        for slider in page.locator("input[type=range]").all():
            for key in ("End", "Home"):
                slider.press(key)
                heights.add(page.locator(".explore").bounding_box()["height"])
        assert max(heights) - min(heights) < 1, (width, heights)


INKS = ("ink", "soft", "accent", "red", "blue", "green", "orange", "purple", "grey")


def test_colours_stand_out_from_the_ground(scheme, figures, open_page):
    """4.5 for what is read, 3 for what is drawn (WCAG 2.2, 1.4.3 and 1.4.11)."""
    page, _ = open_page(f"{figures}/all-{scheme}.html", scheme, keep=True)
    shades = page.evaluate(
        """names => {
        const style = getComputedStyle(document.querySelector('.explore'));
        const shade = name => style.getPropertyValue('--' + name).trim();
        return Object.fromEntries([...names, 'paper', 'tint'].map(name => [name, shade(name)]));
    }""",
        list(INKS),
    )

    def luminance(shade: str) -> float:
        digits = shade[1:] if len(shade) == 7 else "".join(2 * c for c in shade[1:])
        share = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        return float(
            np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    light = {name: luminance(shade) for name, shade in shades.items()}
    for ink in INKS:
        assert contrast(light[ink], light["paper"]) >= (4.5 if ink in ("ink", "soft", "accent") else 3), ink
    assert contrast(light["ink"], light["tint"]) >= 4.5


def test_the_book_works_from_a_folder(folder, browser):
    """From file://, where modules may not be loaded."""
    context = browser.new_context()
    problems: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.goto((folder / "book-light.html").as_uri())
    assert page.locator(".explore[data-alive]").count() == len(FIGURES)
    page.wait_for_function("[...document.querySelectorAll('.explore')].every(host => host.values)")
    assert not problems, problems
    context.close()


def test_without_scripts_there_is_a_picture(figures, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{figures}/all-light.html")
    for image in page.locator(".explore img").all():
        assert image.is_visible()
        assert len(image.get_attribute("alt").split()) >= 5
        assert image.bounding_box()["width"] > 300
    assert page.locator(".explore img").count() == len(FIGURES)
    context.close()


# ---- in the book --------------------------------------------------------------------------------------------------


def test_the_book_shows_every_figure(site):
    pages = "".join(built(page).read_text("utf-8") for page in PAGES)
    assert set(re.findall('class="explore" data-figure="([^"]*)"', pages)) == set(FIGURES)


@pytest.mark.parametrize("page_name", LIVE[::3])  # each figure by itself: test_all_come_to_life
def test_figures_come_to_life_in_the_dark(page_name, site, browser):
    """And for those who want no motion, on a phone: alive, silent, open to all. (In the light: test_pages.)"""
    context = browser.new_context(viewport=NARROW, color_scheme="dark", reduced_motion="reduce")
    context.set_default_timeout(120_000)
    log = Log(context)
    page = context.new_page()
    page.goto(f"{site}/{page_name}.html")
    settle(page)
    assert not (found := list(lifeless(page))), found
    assert not page.get_by_role("button", name="play", exact=True).count()
    assert not log.problems, log.problems  # axe itself asks for files that are not there
    assert not (found := list(barriers(page, within=".explore"))), "\n".join(found)
    context.close()


# ---- function by function ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maths(serve, folder, browser):
    """Call an expression of maths.js, with the functions in scope as `m` and arguments as `a`."""
    context = browser.new_context()
    log = Log(context)
    page = context.new_page()
    page.goto(f"{serve(folder)}/book-light.html")
    settle(page)

    def call(expression: str, **arguments):
        plain = {k: v.tolist() if isinstance(v, torch.Tensor | np.ndarray) else v for k, v in arguments.items()}
        return page.evaluate(f"a => {{ const m = explore.maths; return {expression}; }}", plain)

    yield call
    assert not log.problems, log.problems
    context.close()


SCHEDULES = {
    "m.linear(1000)": schedule.NoiseSchedule.linear(1000),
    "m.linear(50)": schedule.NoiseSchedule.linear(50),
    "m.growing(1000)": stills.GROWING,
    "m.fromAlphaBars([0.9, 0.5, 0.02])": schedule.NoiseSchedule.from_alpha_bars(row(0.9, 0.5, 0.02)[0]),
}
TABLES = (
    "betas",
    "alphas",
    "logAlphaBars",
    "alphaBars",
    "oneMinusAlphaBars",
    "sqrtAlphaBars",
    "sqrtOneMinusAlphaBars",
    "posteriorVariances",
)


def snake(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("made", SCHEDULES)
def test_schedules(made, maths):
    for table in TABLES:
        theirs = getattr(SCHEDULES[made], snake(table))
        np.testing.assert_allclose(maths(f"{made}.{table}"), theirs, rtol=1e-12, err_msg=table)
    for table in ("snr", "logSnr"):  # infinite at index 0
        np.testing.assert_allclose(
            maths(f"{made}.{table}.slice(1)"), getattr(SCHEDULES[made], snake(table))[1:], rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "quadratic"])
def test_timesteps(spacing, maths):
    for T, S in ((1000, 1), (1000, 7), (1000, 50), (1000, 999), (40, 40), (10, 4)):
        assert maths("m.timesteps(a.T, a.S, a.spacing)", T=T, S=S, spacing=spacing) == schedule.timesteps(T, S, spacing)
        pairs = schedule.NoiseSchedule.constant(T, 0.1).pairs(S, spacing)
        assert maths("m.pairs(a.T, a.S, a.spacing)", T=T, S=S, spacing=spacing) == [list(pair) for pair in pairs]


def test_random_numbers(maths):
    for seed in (0, 1, 2**31 + 5):
        close(maths("m.range(500, i => m.uniform(a.seed, i))", seed=seed), stills.uniform(seed, np.arange(500)))
        close(maths("m.normals(a.seed, 300, 2)", seed=seed), stills.normals(seed, 300, 2))
    close(maths("m.sample(m.mixture2d(), 400, 9)"), stills.sample(data.mixture_2d(), 400, 9))
    close(maths("m.sample(m.mixture1d(), 400, 9)"), stills.sample(data.mixture_1d(), 400, 9))
    close(maths("m.swissRoll(300, 5)"), stills.swiss_roll(300, 5))


@pytest.mark.parametrize("t", [1, 2, 300, 1000])
def test_one_step(t, maths, generator):
    x_t, eps, z = torch.randn(3, 1, 2, generator=generator, dtype=torch.float64)
    given = {"x": x_t[0], "e": eps[0], "z": z[0], "t": t}
    of = "m.linear(1000)"
    close(
        maths(f"m.qSample({of}, a.x, a.t, a.z)", **given),
        LINEAR.sqrt_alpha_bars[t] * x_t[0] + LINEAR.sqrt_one_minus_alpha_bars[t] * z[0],
    )
    close(maths(f"m.predictX0({of}, a.x, a.t, a.e)", **given), reverse.predict_x0(LINEAR, x_t, t, eps)[0])
    close(maths(f"m.predictEps({of}, a.x, a.t, a.e)", **given), reverse.predict_eps(LINEAR, x_t, t, eps)[0])
    close(maths(f"m.score({of}, a.t, a.e)", **given), reverse.score(LINEAR, t, eps)[0])
    parts = maths(f"m.driftParts({of}, a.x, a.t, a.e)", **given)
    close(parts["drift"], reverse.drift(LINEAR, lambda x, t: eps, x_t, t)[0])
    step = maths(f"m.ddpmStep({of}, a.x, a.e, a.t, a.t - 1, a.z)", **given)
    close(step["mean"], reverse.p_mean(LINEAR, x_t, t, eps)[0])
    close(step["sigma"], LINEAR.posterior_variances[t].sqrt())
    close(step["xs"], reverse.p_mean(LINEAR, x_t, t, eps)[0] + LINEAR.posterior_variances[t].sqrt() * z[0])


@pytest.mark.parametrize(("t", "s"), [(1, 0), (2, 1), (1000, 0), (700, 300), (1000, 999)])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_one_jump(t, s, eta, maths, generator):
    x_t, eps, z = torch.randn(3, 1, 2, generator=generator, dtype=torch.float64)
    given = {"x": x_t[0], "e": eps[0], "z": z[0], "t": t, "s": s, "eta": eta}
    step = ddim.ddim_step(LINEAR, x_t, eps, t, s, eta, z)
    ours = maths("m.ddimStep(m.linear(1000), a.x, a.e, a.t, a.s, a.eta, a.z)", **given)
    for key, theirs in zip(("xs", "x0Part", "directionPart", "noisePart"), step, strict=True):
        close(ours[key], theirs[0], key)
    close(maths("m.ddimSigma(m.linear(1000), a.t, a.s, a.eta)", **given), ddim.ddim_sigma(LINEAR, t, s, eta))
    close(maths("m.shares(m.linear(1000), a.t, a.s, a.eta).turn", **given), (step.direction_part / eps)[0, 0])


def test_whole_paths(maths, generator):
    model = data.mixture_2d().eps(LINEAR)
    x_T = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    of = "m.linear(1000), m.epsOf(m.mixture2d(), m.linear(1000))"
    for S in (1, 2, 25):
        for spacing in ("trailing", "linspace"):
            given = {"x": x_T, "S": S, "spacing": spacing}
            jumps = "m.pairs(1000, a.S, a.spacing)"
            still = maths(f"a.x.map(x => m.ddimSample({of}, x, {jumps}, 0).at(-1))", **given)
            close(still, ddim.ddim_sample(LINEAR, model, x_T, S, spacing=spacing), least=1.0)
            second = maths(f"a.x.map(x => m.dpmpp2mSample({of}, x, {jumps}).at(-1))", **given)
            close(second, ddim.dpmpp_2m_sample(LINEAR, model, x_T, S, spacing=spacing), least=1.0)
    # DDPM's step from its own formulas is DDIM's at eta = 1, with the same noise
    fresh = "(x, i) => k => [0, 1].map(j => m.normal(3, (k * 5 + i) * 2 + j))"
    noisy = maths(f"a.x.map((x, i) => m.ddpmSample({of}, x, m.pairs(1000, 25), ({fresh})(x, i)).at(-1))", x=x_T)
    close(noisy, stills.counted_path(LINEAR, model, x_T, 25, 1.0, "trailing", 3)[-1])


MIXTURES = {
    "m.mixture1d()": data.mixture_1d(),
    "m.mixture2d()": data.mixture_2d(),
    "m.ring()": data.ring(),
    "m.swissRollMixture(60, 0.08)": data.swiss_roll_mixture(60, 0.08),
    "m.crowd()": stills.crowd(),
}


@pytest.mark.parametrize("made", MIXTURES)
def test_mixtures(made, maths, generator):
    mixture = MIXTURES[made]
    for key in ("weights", "means", "covariances"):
        close(maths(f"{made}.{key}"), getattr(mixture, key), key)
    x = torch.randn(20, mixture.means.shape[1], generator=generator, dtype=torch.float64)
    close(maths(f"a.x.map(x => m.logProb({made}, x))", x=x), mixture.log_prob(x))
    close(maths(f"a.x.map(x => m.scoreOf({made}, x))", x=x), mixture.score(x))
    of = "m.linear(1000)"
    for t in (1, 30, 500, 1000):
        after = mixture.diffuse(LINEAR, t)
        given = {"x": x, "t": t}
        close(maths(f"a.x.map(x => m.logProb(m.diffuse({made}, {of}, a.t), x))", **given), after.log_prob(x))
        close(maths(f"a.x.map(x => m.scoreOf(m.diffuse({made}, {of}, a.t), x))", **given), after.score(x))
        close(
            maths(f"a.x.map(x => m.responsibilities({made}, {of}, x, a.t))", **given),
            mixture.responsibilities(LINEAR, x, t),
        )
        close(maths(f"a.x.map(x => m.denoise({made}, {of}, x, a.t))", **given), mixture.denoise(LINEAR, x, t))
        close(maths(f"a.x.map(x => m.epsOf({made}, {of})(x, a.t))", **given), mixture.eps(LINEAR)(x, t))


@pytest.mark.parametrize("made", ["m.mixture1d()", "m.mixture2d()"])
def test_the_true_reverse(made, maths, generator):
    mixture, x = (
        MIXTURES[made],
        torch.randn(6, MIXTURES[made].means.shape[1], generator=generator, dtype=torch.float64),
    )
    for t in (1, 200, 1000):
        true = mixture.reverse_posterior(LINEAR, x, t)
        backs = maths(f"a.x.map(x => m.reversePosterior({made}, m.linear(1000), x, a.t))", x=x, t=t)
        close([back["weights"] for back in backs], true.mixture_distribution.probs)
        close([back["means"] for back in backs], true.component_distribution.mean)
        part = true.component_distribution
        wide = torch.einsum(
            "kde,...ke,kfe->...kdf", part.axes, part.axis_variances.expand(6, *part.axes.shape[:2]), part.axes
        )
        close([back["covariances"] for back in backs], wide)


def test_on_a_line(maths, generator):
    z = 2 * torch.randn(200, generator=generator, dtype=torch.float64)
    close(maths("a.z.map(m.normalCdf)", z=z), torch.special.ndtr(z))
    close(
        maths("[-9, -6.1, 0, 6.1, 9].map(m.erf)"),
        torch.special.erf(torch.tensor([-9, -6.1, 0, 6.1, 9], dtype=torch.float64)),
    )
    back = data.mixture_1d().reverse_posterior(LINEAR, row(0.3), 400)
    best = maths("m.bestGaussian(m.reversePosterior(m.mixture1d(), m.linear(1000), [0.3], 400))")
    close([best["mean"], best["variance"]], [back.mean[0, 0], back.variance[0, 0]])
    y = torch.linspace(-2, 2, 30, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(data.mixture_1d().log_prob(y[:, None]).sum(), y, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), y)
    close(maths("a.y.map(y => m.curvature(m.mixture1d(), y))", y=y.detach()), curve)
    grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    q, p = (torch.distributions.Normal(*row(*given)[0]) for given in ((0.3, 0.8), (-0.2, 1.3)))
    ours = maths("m.kl(a.g.map(y => m.logNormal(y, 0.3, 0.64)), a.g.map(y => m.logNormal(y, -0.2, 1.69)), a.g)", g=grid)
    assert ours == pytest.approx(float(torch.distributions.kl_divergence(q, p)), rel=1e-12)


def test_finite_data(maths, generator):
    points = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    x, few = torch.randn(9, 2, generator=generator, dtype=torch.float64), DataMixture(points)
    for t in (5, 100, 900):
        given = {"p": points, "x": x, "t": t}
        shares = maths("a.x.map(x => m.responsibilities(m.dataMixture(a.p), m.linear(1000), x, a.t))", **given)
        close(shares, few.responsibilities(LINEAR, x, t))
        close(
            maths("a.x.map(x => m.denoise(m.dataMixture(a.p), m.linear(1000), x, a.t))", **given),
            few.denoise(LINEAR, x, t),
        )


@pytest.mark.parametrize("w", [-0.5, 0.0, 1.7])
def test_guidance(w, maths, generator):
    x, one, everything = (
        torch.randn(7, 2, generator=generator, dtype=torch.float64),
        stills.crowd([0]),
        stills.crowd(),
    )

    class Exact:
        classes = 1

        def __call__(self, x, t, y):
            labelled, without = (part.eps(LINEAR)(x, t) for part in (one, everything))
            return torch.where((y == 0)[:, None], labelled, without)

    theirs = guided(Exact(), torch.zeros(7, dtype=torch.int64), w)(x, torch.full((7,), 400))
    of = "m.epsOf(m.crowd([0]), m.linear(1000)), m.epsOf(m.crowd(), m.linear(1000))"
    close(maths(f"a.x.map(x => m.guided({of}, a.w)(x, 400))", x=x, w=w), theirs)


def test_two_states_and_variances(maths):
    for tossed in ([0.0, 0.0, 0.0], [0.1, 0.3, 0.3], [1.0, 0.25, 0.6]):
        terms, nll, gap = stills.chain_terms(tossed)
        for x0 in (0, 1):
            ours = maths("m.vlbTerms(m.blundering(a.w), a.x)", w=tossed, x=x0)
            close([ours[f"L{i}"] for i in (3, 2, 1, 0)], [value[x0] for value in terms.values()])
            close([ours["nll"], ours["gap"]], [nll[x0], gap[x0]])
    v = [2.0]
    for _ in range(50):
        v.append((1 - 0.07) ** 0.6 * v[-1] + 0.07)
    close(maths("m.variances(2, 0.3, 0.07, 50)"), v)
