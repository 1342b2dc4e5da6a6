"""Speed and memory: every benchmark interleaves its contestants with a reference and reports ratios."""
