"""Measure and compare: load, memory, statistics, the judgement of two versions, and the tuner."""
