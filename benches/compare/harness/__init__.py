"""The comparison: what is installed and started (`peers`), what is asked (`scenarios`), and what came of it (`report`)."""
