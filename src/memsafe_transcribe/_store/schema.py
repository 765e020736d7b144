"""Pure: the tables, and how a file of an earlier version becomes one of this version.

jobs         one per audio and settings, by their key. `wanted_samples` and `longest_samples` are the chunk plan, which
             the first commit froze; `total_samples` is there from when all of it was heard, `gaps` is what was damaged
chunks       what an engine answered, by the samples that the answer alone stands for
batches      one per run; what died unfinished is continued by the next run of its name
sources      which job a batch's source led to, by a keyed hash of the source and the settings; what came of it, and
             how often it was tried in vain
failed_urls  by a keyed hash, too: no URL is kept

What errors said, `error` and `reason`, is sealed: it names URLs and paths.
"""

VERSION = 1
APPLICATION_ID = 0x6D656D73  # "mems"

# MIGRATIONS[n] makes version n + 1 of version n.
MIGRATIONS = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    INSERT INTO settings VALUES ('secret', randomblob(32));
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        wanted_samples INTEGER NOT NULL,
        longest_samples INTEGER NOT NULL,
        total_samples INTEGER,
        gaps TEXT NOT NULL DEFAULT '[]',
        active_at REAL NOT NULL
    );
    CREATE INDEX jobs_by_age ON jobs (active_at);
    CREATE TABLE chunks (
        job_id INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
        core_start INTEGER NOT NULL,
        core_end INTEGER NOT NULL,
        heard_start INTEGER NOT NULL,
        heard_end INTEGER NOT NULL,
        result BLOB NOT NULL,
        PRIMARY KEY (job_id, core_start)
    );
    CREATE TABLE batches (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        is_finished INTEGER NOT NULL DEFAULT 0,
        active_at REAL NOT NULL
    );
    CREATE TABLE sources (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        batch_id INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE,
        job_key BLOB,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        deaths INTEGER NOT NULL DEFAULT 0,
        chunks_seen INTEGER NOT NULL DEFAULT 0,
        error BLOB
    );
    CREATE INDEX sources_by_batch ON sources (batch_id);
    CREATE INDEX sources_by_job ON sources (job_key);
    CREATE TABLE failed_urls (
        digest BLOB PRIMARY KEY,
        reason BLOB NOT NULL,
        status_code INTEGER,
        until_seconds REAL NOT NULL,
        failed_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX failed_urls_by_age ON failed_urls (failed_at);
    """,
)
