// The theme loads Sphinx's search on every page. Sphinx takes such a page for its search page, and does not mark the
// words that were searched for. So mark them here.
document.addEventListener("DOMContentLoaded", () => {
  if (DOCUMENTATION_OPTIONS.pagename !== "search") SphinxHighlight.highlightSearchWords();
});

// No line begins with the punctuation after a formula, or ends with the bracket before one.
document.addEventListener("DOMContentLoaded", () => {
  for (const math of document.querySelectorAll("article span.math")) {
    const [before, after] = [math.previousSibling, math.nextSibling];
    const opening = before?.nodeType === Node.TEXT_NODE ? before.data.match(/[(\[“‘(「]*$/)[0] : "";
    const closing = after?.nodeType === Node.TEXT_NODE ? after.data.match(/^([-'’]\p{L}+|[.,;:!?)\]…”’,。;:、)」])*/u)[0] : "";
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
