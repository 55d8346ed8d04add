"""The paper's experiments and the calibration of the verdict: sets of ordinary runs."""
