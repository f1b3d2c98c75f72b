"""Evaluation: measures, paired tests, fusion of runs, and reports."""
