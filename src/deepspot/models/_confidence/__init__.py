"""How far a model can be trusted: held-out fits, the ridge gate, reliability, intervals, out-of-distribution scores."""
