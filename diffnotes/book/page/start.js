// Bring the figures of the page to life: in the book once it has been read, in a live notebook at once.
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", explore.draw.start);
else {
  explore.draw.start();
  setTimeout(explore.draw.start, 100); // where the output is put into the page only after its script has run
}
