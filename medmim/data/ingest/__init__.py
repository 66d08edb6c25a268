"""Source folder to dataset folder: scan, group, convert, check, publish, with a ledger of every file."""
