"""The outside world in our words: object storage and the job queue. Nothing else imports their
libraries."""
