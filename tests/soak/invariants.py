"""What must be true when everybody has gone home and every sweep has run."""

from tests.lab.lab import Lab
from tests.soak.operator import FOREIGN
from tests.soak.people import Memory
from tests.soak.rows import ask, explain

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
    "an upload of no file and no preview that is not ABORTED": """
        SELECT u.id FROM uploads u WHERE u.state <> 'ABORTED'
        AND NOT EXISTS (SELECT FROM files f WHERE f.upload_id = u.id)
        AND NOT EXISTS (SELECT FROM previews p WHERE u.id IN (p.thumbnail_id, p.picture_id))""",
    "a preview of what was deleted": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN previews p ON p.file_id = f.id WHERE t.state = 'DELETED'""",
    "a preview whose pictures are not complete": """
        SELECT t.id FROM transfers t JOIN files f ON f.transfer_id = t.id
        JOIN previews p ON p.file_id = f.id JOIN uploads u ON u.id IN (p.thumbnail_id, p.picture_id)
        WHERE p.state = 'MADE' AND u.state <> 'COMPLETE'""",
    "bytes to remove that were not": """
        SELECT id FROM uploads WHERE state = 'ABORTED' AND removed_at IS NULL""",
    "a lease on what is not being checked": """
        SELECT id FROM transfers WHERE lease_token IS NOT NULL AND state <> 'PROCESSING'""",
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
    owner = ask(lab, "SELECT transfer_id::text FROM files WHERE upload_id = %s", one_id)
    transfer_id = owner[0][0] if owner else one_id
    lived = memory.stories.get(transfer_id, "nobody's story")
    return f"\n    {lived}\n    {explain(lab.truth, transfer_id)}"


def check_leaks(lab: Lab, memory: Memory) -> None:
    """Before any orphan is swept: a row that has settled its removal left nothing behind."""
    removed = {key for (key,) in ask(lab, "SELECT key FROM uploads WHERE removed_at IS NOT NULL")}
    if leaked := removed & lab.truth.objects():
        memory.find(f"{len(leaked)} objects outlived their removal, such as {min(leaked)}")


def check_bucket(lab: Lab, memory: Memory) -> None:
    """The objects are the files and pictures of living transfers, the multiparts open uploads'."""
    rows = ask(
        lab,
        "SELECT u.key, u.state::text, u.method::text, u.s3_upload_id FROM uploads u"
        " JOIN files f ON f.upload_id = u.id JOIN transfers t ON t.id = f.transfer_id"
        " WHERE t.state <> 'DELETED' UNION ALL"
        " SELECT u.key, u.state::text, u.method::text, u.s3_upload_id FROM uploads u"
        " JOIN previews p ON u.id IN (p.thumbnail_id, p.picture_id)",
    )
    complete = {key for key, state, _, _ in rows if state == "COMPLETE"}
    # A single PUT is an object as soon as it has arrived, before anybody said "that is all".
    arriving = {key for key, state, method, _ in rows if state == "OPEN" and method == "single"}
    living = {s3_id for _, state, _, s3_id in rows if state == "OPEN" and s3_id}
    objects = lab.truth.objects()
    foreign = {key for key in objects if key.startswith(FOREIGN)}
    open_ids = lab.truth.open_uploads()
    for what, found in (
        ("files or pictures of living transfers have no object", complete - objects),
        ("objects belong to no living transfer", objects - foreign - complete - arriving),
        ("open uploads have no multipart", living - open_ids),
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
