"""What only the pages of the book need: checks, the ledger, figures, and the experiment of chapter 6."""
