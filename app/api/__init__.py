"""JSON. One file per dialect, plus what they share: who asks, what was sent, how errors look."""
