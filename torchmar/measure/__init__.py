"""What measures or compares: load, memory, statistics, the judgement of two versions, and the tuner."""
