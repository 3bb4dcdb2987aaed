// The theme loads Sphinx's search on every page. Sphinx takes such a page for its search page, and does not mark the
// words that were searched for. So mark them here.
document.addEventListener("DOMContentLoaded", () => {
  if (DOCUMENTATION_OPTIONS.pagename !== "search") SphinxHighlight.highlightSearchWords();
});

// No line begins with the punctuation after a formula, or ends with the bracket before one. The marks at FF.. are those
// of Chinese text, full-width, as escapes, since they look like their ASCII twins: ( and ! ) , : ; ?
document.addEventListener("DOMContentLoaded", () => {
  const opens = /[(\[“‘「\uFF08]*$/;
  const closes = /^([-'’]\p{L}+|[.,;:!?)\]…”’。、」\uFF01\uFF09\uFF0C\uFF1A\uFF1B\uFF1F])*/u;
  for (const math of document.querySelectorAll("article span.math")) {
    const [before, after] = [math.previousSibling, math.nextSibling];
    const opening = before?.nodeType === Node.TEXT_NODE ? before.data.match(opens)[0] : "";
    const closing = after?.nodeType === Node.TEXT_NODE ? after.data.match(closes)[0] : "";
    if (!opening && !closing) continue;
    if (opening) before.data = before.data.slice(0, -opening.length);
    if (closing) after.data = after.data.slice(closing.length);
    const glued = document.createElement("span");
    glued.className = "glued";
    math.replaceWith(glued);
    glued.append(opening, math, closing);
  }
});

// At each equation that is checked on this page, a mark that leads to the verdict.
document.addEventListener("DOMContentLoaded", () => {
  for (const verdict of document.querySelectorAll("p.verdict[id^='check-']")) {
    const label = verdict.id.slice("check-".length);
    const number = document.querySelector(`#equation-${CSS.escape(label)} .eqno`);
    if (!number) continue;
    const mark = document.createElement("a");
    mark.className = "checked";
    mark.href = `#${verdict.id}`;
    mark.textContent = "✓";
    mark.setAttribute("aria-label", "to the check of this equation");
    number.insertBefore(mark, number.querySelector(".headerlink"));
  }
});

// The contents mark the section in view: the last one that begins above a line, which lies near the top of the window
// and moves to its bottom as the page ends. What a link has led to is marked until the reader moves on. (The theme's own
// spy, which is not told of fast scrolling, finds no contents and stays off: it starts later than this.)
document.addEventListener("readystatechange", () => {
  const contents = document.querySelector("#pst-page-toc-nav");
  if (!contents) return;
  contents.id = "contents";
  const links = [...contents.querySelectorAll("a[href^='#']")];
  const sections = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  let led = -1; // the section that a link has led to
  const mark = () => {
    const left = document.documentElement.scrollHeight - scrollY - innerHeight;
    const line = innerHeight * (0.2 + 0.8 * Math.max(0, 1 - left / innerHeight));
    const here = led >= 0 ? led : sections.findLastIndex((section) => section?.getBoundingClientRect().top < line);
    links.forEach((link, i) => {
      link.classList.toggle("active", i === here);
      if (i === here) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    for (const entry of contents.querySelectorAll(".toc-entry")) entry.classList.toggle("active", entry.contains(links[here] ?? null));
  };
  const follow = () => {
    let target = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    while (target && !sections.includes(target)) target = target.parentElement;
    led = target ? sections.indexOf(target) : -1;
    mark();
  };
  let waiting = false;
  const soon = () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; mark(); });
    waiting = true;
  };
  for (const moves of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(moves, () => { led = -1; }, { passive: true });
  for (const moved of ["scroll", "resize", "load"]) addEventListener(moved, soon, { passive: true });
  addEventListener("hashchange", follow);
  follow();
}, { once: true });

// A tap on a figure, or its button, shows it as large as it was drawn or as the window is.
document.addEventListener("DOMContentLoaded", () => {
  const make = (name, attributes, ...children) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.append(...children);
    return element;
  };
  const words = document.documentElement.lang.startsWith("zh") ? ["放大", "关闭"] : ["enlarge", "close"];
  for (const image of document.querySelectorAll("article figure img")) {
    if (image.closest(".explore, .animation, a")) continue;
    const number = image.closest("figure").querySelector(".caption-number")?.textContent.trim() ?? "";
    const button = make("button", { type: "button", className: "enlarge", ariaLabel: `${words[0]} ${number}`.trim() }, "⤢");
    const frame = make("span", { className: "enlargeable" });
    image.replaceWith(frame);
    frame.append(image, button);
    button.addEventListener("click", () => {
      const close = make("button", { type: "button", className: "close", ariaLabel: words[1] }, "×");
      const large = make("img", { src: image.src, alt: image.alt });
      const room = make("div", { className: "room", tabIndex: 0 }, large);
      const dialog = make("dialog", { className: "enlarged", ariaLabel: number || image.alt }, close, room);
      large.style.minWidth = `${image.naturalWidth}px`;
      room.addEventListener("click", () => dialog.close());
      close.addEventListener("click", () => dialog.close());
      dialog.addEventListener("close", () => dialog.remove());
      document.body.append(dialog);
      dialog.showModal();
    });
    image.addEventListener("click", () => {
      button.focus({ preventScroll: true }); // where the focus returns to
      button.click();
    });
  }
});

// Search leads to sections. Sphinx finds pages; under each stand the sections that have the words, and the lines they stand in.
document.addEventListener("DOMContentLoaded", () => {
  if (DOCUMENTATION_OPTIONS.pagename !== "search") return;
  const noise = ".headerlink, script, style, nav, #jb-print-docs-body, .copybtn, div.math, .animation, details.hide > summary, a.checked";
  const han = /\p{Script=Han}/u;
  // formulas, spaces, Chinese characters, words
  const pieces = /\\\(.*?\\\)|\s+|\p{Script=Han}|[^\s\\\p{Script=Han}]+|\\/gsu;
  const start = (term) => (han.test(term) ? term : `(?<![\\p{L}\\p{N}])${term}`); // terms are beginnings of words
  // Chinese is written without spaces: cut a query into the longest terms that the index has
  splitQuery = (query) => query.split(/[^\p{L}\p{N}_]+/u).filter(Boolean).flatMap((word) => {
    const known = Search._index?.terms ?? {}, terms = [];
    for (let i = 0; han.test(word) && i < word.length; ) {
      let n = Math.min(8, word.length - i);
      while (n > 1 && !Object.hasOwn(known, word.slice(i, i + n).toLowerCase())) n -= 1;
      if (n > 1) terms.push(word.slice(i, i + n));
      i += n;
    }
    return terms.length ? terms : [word];
  });
  const write = (element, tokens) => {
    for (const token of tokens) {
      if (!token.startsWith("\\(")) element.append(token.trim() ? token : " ");
      else element.append(Object.assign(document.createElement("span"), { className: "math nohighlight", textContent: token }));
    }
    return element;
  };
  Search.makeSearchSummary = (html, terms, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html").querySelector('[role="main"] article, [role="main"]');
    page.querySelectorAll(noise).forEach((element) => element.remove());
    const escaped = [...terms].map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const words = escaped.map((term) => new RegExp(start(term), "giu"));
    const any = new RegExp(escaped.map(start).join("|"), "iu");
    const sections = [...page.querySelectorAll("section[id]")].map((section) => {
      const own = [...section.children].filter((child) => child.tagName !== "SECTION");
      const text = (kind) => own.filter(kind).map((child) => child.textContent).join(" ");
      const parts = [
        text((child) => child.matches("h1, h2, h3, h4, h5, h6")),
        text((child) => !child.matches("h1, h2, h3, h4, h5, h6, div.cell")),
        text((child) => child.matches("div.cell")),
      ];
      const found = words.map((word) => parts.map((part) => part.match(word)?.length ?? 0));
      const scores = found.map(([title, prose, cells]) => 5 * title + prose + (cells ? 0.5 : 0));
      const score = scores.reduce((a, b) => a + b, 0);
      return { id: section.id, title: parts[0], text: parts[1], all: scores.filter(Boolean).length, score };
    });
    const excerpt = ({ text }) => {
      const tokens = text.trim().match(pieces) ?? [];
      const before = text.trim().slice(0, Math.max(0, text.trim().search(any))).match(pieces)?.length ?? 0;
      const first = Math.max(0, before - 20);
      const line = document.createElement("p");
      line.className = "context";
      return write(line, [first ? "… " : "", ...tokens.slice(first, first + 70), tokens.length > first + 70 ? " …" : ""]);
    };
    const box = document.createElement("div");
    const one = sections.find(({ id }) => `#${id}` === anchor);
    const best = sections.filter(({ score }) => score).sort((a, b) => b.all - a.all || b.score - a.score).slice(0, 3);
    if (one) box.append(excerpt(one));
    else for (const section of best) {
      const link = write(document.createElement("a"), section.title.match(pieces) ?? []);
      link.className = "section";
      link.href = `#${section.id}`;
      box.append(link, excerpt(section));
    }
    queueMicrotask(() => { // once the box stands below the link to the page
      const link = box.parentElement.querySelector("a");
      const address = link.href;
      if (!one && best.length) link.href += `#${best[0].id}`;
      for (const section of box.querySelectorAll("a.section")) section.href = address + section.getAttribute("href");
      window.MathJax?.startup?.promise?.then(() => MathJax.typesetPromise([box]));
    });
    return box;
  };
});

// The link to the page's twin in the other language leads to the section in view.
document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("a.twin")) {
    link.removeAttribute("target");
    link.addEventListener("click", () => {
      const sections = [...document.querySelectorAll("article section[id]")];
      const top = (section) => section.getBoundingClientRect().top;
      const asked = sections.find((section) => `#${section.id}` === location.hash && Math.abs(top(section)) < innerHeight);
      const here = asked ?? sections.findLast((section) => top(section) < innerHeight / 3);
      link.hash = here && here !== sections[0] ? here.id : "";
    });
  }
});

// The arrows that unfold a chapter in the sidebar have no words of their own.
document.addEventListener("DOMContentLoaded", () => {
  const word = document.documentElement.lang.startsWith("zh") ? "本章的各页" : "pages of";
  for (const arrow of document.querySelectorAll("li.has-children > details > summary"))
    arrow.setAttribute("aria-label", `${word} ${arrow.closest("li").querySelector("a").textContent.trim()}`);
});
