"""Programs made of the package: the page, annotation, the demonstration, diagnosis."""
