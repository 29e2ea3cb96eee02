"""Provide a worker's common parts: memory, processors, reading, recording, answering."""
