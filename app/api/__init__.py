"""JSON APIs: one file per dialect, and what they share (authentication, reading requests)."""
