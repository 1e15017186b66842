"""Files: everything qsmdl reads from or writes to a disk passes through here."""
