"""Answers from few labels: classifiers, prototypes, novelty."""
