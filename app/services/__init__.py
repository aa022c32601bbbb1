"""The business. Every public function is a verb; only services open transactions."""
