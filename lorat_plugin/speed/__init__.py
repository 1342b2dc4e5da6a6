"""How fast, and beside what: every benchmark interleaves its contestants with a baseline and reports ratios."""
