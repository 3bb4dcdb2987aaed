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
