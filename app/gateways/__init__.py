"""Adapters for everything outside this process: object storage, Redis, mail, AWS events, webhooks,
and the child process that decodes pictures. Nothing else imports boto3, redis, rq or smtplib."""
