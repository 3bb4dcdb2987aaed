"""What only the book's pages need: checks, the ledger, the style of the figures, chapter 6's experiment."""
