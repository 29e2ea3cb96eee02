"""One self-contained HTML page: its frame, its tables and its drawings, the same for all that report."""
