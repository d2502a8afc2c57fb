"""Accuracy of a model: held-out fits, ridge gate, reliability, intervals, out-of-distribution scores."""
