"""A small strict S3 endpoint: one machine, one process, the standard library only.

    python -m embedded.s3 --port 9000 --data var/s3 --access-key K --secret-key S

The promise: whatever was answered with success is on disk and survives `kill -9`; whatever Amazon
S3 would refuse (a signature, a size, a checksum, an origin) is refused here too; memory use does
not grow with the size of the objects. Where the behaviour is not obvious, it follows the Amazon S3
API Reference.

How to read it, from the socket inwards:

    wire.py       HTTP/1.1: requests in, responses out, nothing of S3
    server.py     one thread per connection: authenticate, find the action, answer, stop
    routes.py     which action serves which request
    sigv4.py      who signed the request: header, query string or form
    payload.py    the request's body: aws-chunked decoding, digests and checksums
    buckets.py    actions on buckets, with cors.py (its rules) and listing.py (its lists)
    objects.py    actions on objects
    multipart.py  actions on multipart uploads
    forms.py      uploads by HTML form with a signed policy
    store.py      the stored data: an SQLite index, and one file per part
"""
