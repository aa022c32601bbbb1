"""What must be true when everybody has gone home and every sweep has run."""

from tests.lab.lab import Lab
from tests.soak.operator import FOREIGN
from tests.soak.people import Memory
from tests.soak.rows import ask, explain

# Whose an upload is: a file of a transfer, a picture of one, or the zip of all.
OWNED = (
    "(SELECT upload_id, transfer_id FROM files"
    " UNION ALL SELECT upload_id, transfer_id FROM archives"
    " UNION ALL SELECT picture, transfer_id FROM files f JOIN previews p ON p.file_id = f.id,"
    " LATERAL (VALUES (p.thumbnail_id), (p.picture_id)) made (picture) WHERE picture IS NOT NULL)"
)
# Each asks for rows that must not be.
IMPOSSIBLE = {
    "READY or EXPIRED with a file that is not complete": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN uploads u ON u.id = f.upload_id
        WHERE t.state IN ('READY', 'EXPIRED') AND u.state <> 'COMPLETE'""",
    "READY with no file": """
        SELECT id FROM transfers t WHERE state = 'READY'
        AND NOT EXISTS (SELECT FROM files f WHERE f.transfer_id = t.id)""",
    "DELETED with an upload that somebody wants": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN uploads u ON u.id = f.upload_id
        WHERE t.state = 'DELETED' AND u.state <> 'ABORTED'""",
    "alive with an upload that nobody wants": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN uploads u ON u.id = f.upload_id
        WHERE t.state <> 'DELETED' AND u.state = 'ABORTED'""",
    "an upload of no transfer that is not ABORTED": f"""
        SELECT u.id FROM uploads u WHERE u.state <> 'ABORTED'
        AND NOT EXISTS (SELECT FROM {OWNED} o WHERE o.upload_id = u.id)""",
    "a zip that was given up": "SELECT transfer_id FROM archives WHERE failed_at IS NOT NULL",
    "a zip that is ready and whose object is not, or the other way round": """
        SELECT a.transfer_id FROM archives a JOIN uploads u ON u.id = a.upload_id
        JOIN transfers t ON t.id = a.transfer_id
        WHERE t.state <> 'DELETED' AND (a.ready_at IS NULL) = (u.state = 'COMPLETE')""",
    "a zip that is still being made": """
        SELECT a.transfer_id FROM archives a JOIN transfers t ON t.id = a.transfer_id
        WHERE t.state = 'READY' AND a.ready_at IS NULL AND a.failed_at IS NULL""",
    "a preview of what was deleted": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN previews p ON p.file_id = f.id WHERE t.state = 'DELETED'""",
    "a preview whose pictures are not complete": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN previews p ON p.file_id = f.id JOIN uploads u ON u.id IN (p.thumbnail_id, p.picture_id)
        WHERE p.state = 'MADE' AND u.state <> 'COMPLETE'""",
    "bytes to remove that were not": """
        SELECT id FROM uploads WHERE state = 'ABORTED' AND removed_at IS NULL""",
    # In INIT one may be left by a worker that died at an early file: it lapses, and "that is all"
    # takes it away.
    "a lease on what nobody works on": """
        SELECT id FROM transfers WHERE lease_token IS NOT NULL AND state <> 'PROCESSING'
        AND (state <> 'INIT' OR lease_until > now())""",
    "still being checked": "SELECT id FROM transfers WHERE state = 'PROCESSING'",
    "a download counter that is not the number of downloads": """
        SELECT t.id FROM transfers t LEFT JOIN downloads d ON d.transfer_id = t.id
        GROUP BY t.id HAVING t.download_count <> count(d.id)
        OR t.download_count > t.max_downloads""",
    "downloads that were recorded otherwise than counted": """
        SELECT transfer_id FROM downloads GROUP BY transfer_id
        HAVING count(*) <> (SELECT count(*) FROM audit_events a
        WHERE a.action = 'download' AND a.transfer_id = downloads.transfer_id)""",
    "a file that is still named as a problem": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        WHERE t.state = 'READY' AND f.problem IS NOT NULL""",
}


def check_rows(lab: Lab, memory: Memory) -> None:
    """No impossible row; every transfer became what it had to."""
    for what, query in IMPOSSIBLE.items():
        if found := ask(lab, query):
            story = _story(lab, memory, str(found[0][0]))
            memory.find(f"{what}: {len(found)}, such as {found[0][0]}{story}")
    states = dict(ask(lab, "SELECT id::text, state::text FROM transfers"))
    for transfer_id, fate in memory.fates.items():
        if states.get(transfer_id) not in fate:
            state = states.get(transfer_id, "nowhere")
            memory.find(
                f"transfer {transfer_id} is {state} and should be {' or '.join(fate)}"
                f"{_story(lab, memory, transfer_id)}"
            )
    made = len(ask(lab, "SELECT id FROM transfers"))
    if made != memory.counts["transfers"]:
        memory.find(f"{made} transfers in the database, {memory.counts['transfers']} were made")


def _story(lab: Lab, memory: Memory, one_id: str) -> str:
    """Of a transfer, or of the one that an upload belongs to."""
    owner = ask(lab, f"SELECT transfer_id::text FROM {OWNED} o WHERE upload_id = %s", one_id)
    transfer_id = owner[0][0] if owner else one_id
    lived = memory.stories.get(transfer_id, "nobody's story")
    return f"\n    {lived}\n    {explain(lab.truth, transfer_id)}"


def check_leaks(lab: Lab, memory: Memory) -> None:
    """Before any orphan is swept: a row that has settled its removal left nothing behind."""
    removed = {key for (key,) in ask(lab, "SELECT key FROM uploads WHERE removed_at IS NOT NULL")}
    if leaked := removed & lab.truth.objects():
        memory.find(f"{len(leaked)} objects outlived their removal, such as {min(leaked)}")


def check_bucket(lab: Lab, memory: Memory) -> None:
    """The objects are the files, zips and pictures of living transfers, the multiparts their open uploads."""
    rows = ask(
        lab,
        "SELECT u.key, u.state::text, u.method::text, u.s3_upload_id, u.sent_at FROM uploads u"
        f" JOIN {OWNED} o ON o.upload_id = u.id JOIN transfers t ON t.id = o.transfer_id"
        " WHERE t.state <> 'DELETED'",
    )
    complete = {key for key, state, *_ in rows if state == "COMPLETE"}
    # A single PUT is an object as soon as it has arrived, before anybody said "that is all"; and a
    # file that was named early may have been completed by a worker that then died.
    arriving = {
        key
        for key, state, method, _, named in rows
        if state == "OPEN" and (method == "single" or named)
    }
    open_rows = [(s3_id, named) for _, state, _, s3_id, named in rows if state == "OPEN" and s3_id]
    living, named = {s3_id for s3_id, _ in open_rows}, {s3_id for s3_id, at in open_rows if at}
    objects = lab.truth.objects()
    foreign = {key for key in objects if key.startswith(FOREIGN)}
    open_ids = lab.truth.open_uploads()
    for what, found in (
        ("files, zips or pictures of living transfers have no object", complete - objects),
        ("objects belong to no living transfer", objects - foreign - complete - arriving),
        ("open uploads have no multipart", living - named - open_ids),
        ("multiparts belong to no open upload", open_ids - living),
    ):
        if found:
            memory.find(f"{len(found)} {what}, such as {min(found)}")
    if len(foreign) != memory.counts["foreign"]:
        memory.find(f"{len(foreign)} of {memory.counts['foreign']} foreign objects are left")
    swept, planted = memory.counts["swept: objects that no row wants"], memory.counts["foreign"]
    if swept > planted:
        # One orphan is planted for each foreign object: all others are leaks of ours.
        memory.find(f"{swept - planted} objects were left for the sweep of orphans to find")
    memory.counts["objects in the end"] = len(objects - foreign)
    memory.counts["multiparts in the end"] = len(open_ids)


def check_answers(memory: Memory) -> None:
    """Nobody was told 500; who was told 503 was told when to come again."""
    for answer in memory.heard.answers:
        if answer.status >= 500 and answer.status != 503:
            memory.find(f"{answer} {answer.body[:200]!r}")
        if answer.status == 503 and not int(answer.headers.get("Retry-After", 0)):
            memory.find(f"{answer} without Retry-After")
