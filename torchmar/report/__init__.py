"""Make self-contained HTML pages: one frame, tables and drawings for all reports."""
