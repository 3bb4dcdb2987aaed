// Search lists the pages of the book before the functions of the package; Sphinx's own scores do the reverse.
// (A var, since Sphinx has declared it before this file is read.)
var Scorer = {
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  objNameMatch: 3,
  objPartialMatch: 1,
  objPrio: { 0: 0, 1: 0, 2: -1 },
  objPrioDefault: 0,
};
