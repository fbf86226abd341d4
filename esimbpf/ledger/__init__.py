"""What was counted, written down: the ledger and what is read from it."""
