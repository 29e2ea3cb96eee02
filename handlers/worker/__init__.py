"""What a worker does besides its task: memory, processors, reading, recording, answering."""
