"""Benchmark of training-data attribution, judged by retraining."""
