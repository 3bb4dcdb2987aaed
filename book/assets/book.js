// The theme loads Sphinx's search on every page. Sphinx takes such a page for its search page, and does not mark the
// words that were searched for. So mark them here.
document.addEventListener("DOMContentLoaded", () => {
  if (DOCUMENTATION_OPTIONS.pagename !== "search") SphinxHighlight.highlightSearchWords();
});
