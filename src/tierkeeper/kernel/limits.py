"""Every limit, named, with its reason."""

from typing import Final

BATCH_ROWS: Final = 50_000  # 10-50k rows keep a retry cheap and a delete's locks and WAL short; on a slow link more is faster
BATCH_ROWS_MIN: Final = 500  # a batch that writers keep changing is halved down to this, then left for the next run
BATCH_BYTES: Final = 64_000_000  # of wide rows a batch takes fewer, so that a retry stays cheap and its WAL short
ROW_BYTES_MAX: Final = (
    250_000_000  # Postgres hands over 1 GB at most, as text a bytea doubles, and a row costs its threefold here
)
PACKED_RATIO: Final = 255  # what lz4 can make of a byte at best (pglz: 91): how large a compressed value may be
ARRAY_RATIO: Final = 8  # an array's element on its way brings its length: 5 bytes for one, and more than 8 for none
WIDE_BYTES: Final = 60_000_000  # what the rows of further workers may cost in memory beside the largest row's threefold
GROUP_BATCHES: Final = 2  # a worker's batches that share one wait for old readers; more keep more rows in two tiers at once
GRAPH_SEEDS_SHARE: Final = 10  # of a batch's rows are looked at first; the others are for what hangs on them
GRAPH_SEEN_FACTOR: Final = 2  # batches' worth of rows that are followed along foreign keys at once; it bounds the memory
PASSES: Final = 3  # over a table, for rows that the application moves about meanwhile; then the next run has its turn
WORKERS: Final = 6  # more hide a slow link better, each with a connection to both tiers (a free tier's pooler gives 15)
SHARED_BATCHES_MIN: Final = 8  # a pass of fewer is over before another process has its connections
PART_BATCHES: Final = 8  # of a shared pass that a process takes at once: what is lost with it is little, and dialling costs less
PART_LOOK_SECONDS: Final = 0.5  # between two looks at what others still have of a shared pass
PIECE_PAGES: Final = 16  # heap pages that are counted as one when batches are cut; more would cut them less evenly
ROWS_PER_PAGE: Final = 40  # an ordinary row of 200 bytes; it only sets how finely the heap is counted for small batches
LEASE_RENEW_SECONDS: Final = 20  # well within LEASE_SECONDS, and seldom enough to cost nothing
SEGMENT_ROWS: Final = 1_000_000  # one archive file; larger ones make a retry dear, smaller ones waste the catalog
SEGMENT_BESIDE_BYTES: Final = (
    4_000  # its manifest, wrapped key and commit: 3.5 kB of a narrow table, and small beside any wide one
)
GATHERED_ROWS: Final = 32_768  # are compressed, or read back, at once: threads that wait for each other more often cost a tenth
ROW_GROUP_ROWS: Final = (
    16_384  # the reader's unit: of a million narrow rows it and the footer, which lists all, are near their least
)
READ_BYTES: Final = 1_835_008  # or so many bytes as they lie, some 400 kB compressed: smaller units cost size and writing
ROW_GROUP_BYTES: Final = 16 * 2**20  # two row groups of wide rows may lie in memory, and a wide row threefold
ARROW_BATCH_BYTES: Final = 4 * 2**20  # rows on their way as Arrow come in batches of so much; larger ones gain nothing
DIGEST_ROWS: Final = 65_536  # content digests are taken over blocks of this many rows, whatever the chunks on the way
PARSED_BYTES: Final = 2 * 2**20  # rows that come as text are turned into Arrow so much at once: larger pieces gain nothing
SORT_UNDERRATED: Final = 3  # rows that come in order from an index may cost so much more than Postgres thinks that sorting does
BOUNDED_ROWS: Final = 8_192  # where only some rows of a row group are wanted, so many are read at once: the rest is not
ARRAY_BYTES_MAX: Final = 2 * 2**20  # of arrays as text are taken apart at once, which takes fifty times that for short elements
COPY_BLOCK_BYTES: Final = 256 * 1024  # larger blocks gain nothing, smaller ones cost a system call each
REFOUND_BYTES: Final = 8 * 2**20  # of the source's rows lie at once in a tier, which may be full, where a copy is looked for
CONNECT_SECONDS: Final = 10  # an unreachable server is told apart from a slow one
DROP_LOCK_SECONDS: Final = 0.2  # a partition's drop locks its whole table: the application queues behind the wait for that
LOCK_SECONDS: Final = 10  # waiting longer for a lock means queueing the application behind us
LOOK_LOCK_SECONDS: Final = 2  # a plan or a report gives way sooner: what it would wait for it can only name
AUDIT_KEPT_SECONDS: Final = 2  # a short action writes its intent and its outcome over one connection; a long one holds none
SPARE_SECONDS: Final = 2  # a run keeps a connection that nobody uses so long: a pooler's slots are few, and it may break unheard
KEPT_SECONDS: Final = 30  # who looks at some archived rows mostly looks at more: so long two connections wait for that
ANSWER_SECONDS: Final = 1  # one that has waited longer than a run's has to say at once that it is there; else it is dialled anew
SPARE_AGE_SECONDS: Final = 60  # an older one is dialled anew: what a role or database is set to holds for new sessions alone
CANCEL_SECONDS: Final = 1  # a run that must end at once waits no longer for each server to hear that a statement is cancelled
LEASE_SECONDS: Final = 120  # a mover on another machine that says nothing for so long may be replaced; markers fence it
WAIT_EXTRA_SECONDS: Final = 5  # waiting for old readers: their time-out, and this for the server to notice
CONFLICTS_PER_TABLE: Final = 1_000  # more keys in two tiers at once is no accident: the table is refused
KEYS_AT_ONCE: Final = 50_000  # that one tier is asked about in one message; more would only take more memory
KEYS_FETCHED: Final = 10_000  # of a tier's rows that may have keys of a segment; of more it is asked about the segment's keys
DISK_SHARE: Final = 2.0  # of the quota: what a hosted disk holds of data, log and temporary files; providers do not say
PACE_SECONDS: Final = 60  # a batch waits so long for room in the log, half a lease; then the run ends and a later one goes on
PACE_LOOK_SECONDS: Final = 0.25  # between two looks at a log that is full
SAMPLE_ROWS: Final = 5_000  # whose sizes stand for those of all; more would not come nearer
SAMPLE_PAGES: Final = 100  # that they are taken from, all over the table
STORE_PART_BYTES: Final = (
    8 * 2**20
)  # of an object on its way to or from a bucket; S3 wants 5 MiB at least, and takes 10,000 parts
SYNC_BYTES: Final = 8 * 2**20  # of a file go on to the disk while the next are written: its fsync has little left to wait for
STORE_READ_SECONDS: Final = 60  # a store that says nothing for so long is away
STORE_TRIES: Final = 4  # of one request: what is asked is safe to ask again
OBJECT_BYTES_MAX: Final = 64 * 2**30  # of one object at the home server; a segment has some 100 MB
PUT_BYTES_MAX: Final = 16 * 2**20  # of one that comes in one request, which begins anew if the link breaks
UPLOADS_MAX: Final = 256  # that a token has under way at once, so that nobody fills a disk with the names of files
UPLOAD_KEPT_SECONDS: Final = 7 * 86_400  # an upload that nobody goes on with is given up after that
UPLOAD_IDLE_SECONDS: Final = 3_600  # and after that if its token needs the room: what it was for was mostly killed
DISK_SPARE_BYTES: Final = 64 * 2**20  # of the home server's disk are left to its own memory: without it nothing can be deleted
BODY_READ_SECONDS: Final = 30  # the home server waits so long for the headers of a request, or for a piece of its body
BODY_PIECE_BYTES: Final = 64 * 1024  # which is so large, both ways: a byte at a time would hold a connection for ever
SEND_BYTES: Final = 512 * 1024  # of an object that it sends at once, and keeps in memory until the peer has taken them
REQUESTS_MAX: Final = 64  # that it serves at once, each with a thread
CONNECTIONS_MAX: Final = 256  # that it keeps open; idle ones make place, so that strangers who only connect shut nobody out
TOKEN_DAYS: Final = 365  # a token that says nothing else lives so long
LOCK_YEARS_MAX: Final = 30  # no lock may end later: a mistyped year would keep an object for good
SCRUB_DAYS: Final = 30  # in which the home server reads all that it keeps
SCRUB_TURNS: Final = 30  # of the schedule's scrub until the whole archive was read, from day to day in the same time
SCRUB_LOOK_SECONDS: Final = 60  # between two turns of it
HEALTH_SECONDS: Final = 1  # how old its answer to whoever asks for its health may be
LEAF_DAYS: Final = 90  # of the home server's certificate; it is renewed by itself when a third of them is left
CA_YEARS: Final = 20  # of its authority, which the clients pin
AUTHORITY_BYTES_MAX: Final = 64 * 1024  # of its certificate, which is fetched from whoever answers; it has less than 1 KiB
LIST_PAGE: Final = 1000  # objects in one answer of the home server
ASKED_FINE_DAYS: Final = 40  # the log of asked ages has a row for each day so long, later one for each month
ASKED_KEPT_DAYS: Final = 400  # and nothing older: who asked a year ago says little of what is asked now
OUTLOOK_READ_DAYS: Final = 14  # whose reads say how warm a table is: two weeks have the rhythm of both
ASKED_READ_DAYS: Final = 180  # that a proposal looks at
ASKED_LOCK_SECONDS: Final = 0.2  # a query that has its answer waits no longer for a lock to note its ages
USAGE_LOCK_SECONDS: Final = 0.05  # what reads usage gives way to whoever locks a table: the catalog's estimate serves, too
USAGE_TRIES: Final = 3  # a lock that comes between a look at the locks and a look at the sizes is seen by the next try
USAGE_OTHER_TABLES: Final = 20  # the largest beside the policy's are told of; more make the history long and nothing clearer
USAGE_FINE_DAYS: Final = 2  # every sample is kept so long: what happened last night can still be seen
USAGE_HOURLY_DAYS: Final = 60  # one an hour: two of a month's sawteeth, for a forecast
USAGE_DAILY_DAYS: Final = 3 * 365  # one a day: three of a year's seasons
USAGE_THINNED: Final = (
    2_000  # samples that one record looks at for thinning; a record brings some 50, a month's backlog goes in a day
)
USAGE_FALL_SHARE: Final = 0.01  # a figure that falls by less is noise; of a larger fall both ends outlive the thinning
USAGE_FALL_BYTES: Final = 64 * 1024  # and of a small table, a few pages
USAGE_FALLS_KEPT: Final = 4  # the deepest of an hour, or of a day, so that a figure that jumps about does not fill Main
SPOOL_BYTES_MAX: Final = 16 * 2**20  # of samples while Main is away: a week of a large installation's; then it is thinned out
SPOOL_SENT: Final = 200  # samples that one transaction brings to Main
TIER_LOOK_SECONDS: Final = 2  # between two checks of a tier that is out: who waits for it is to go on soon after it is back
TIER_SEEN_SECONDS: Final = 6  # what was seen of a tier holds so long: a check that hangs, the pause after it, and the file
AWAY_SECONDS: Final = 60  # a Main that did not answer is not asked again before: each question may cost CONNECT_SECONDS
EGRESS_SENT_BYTES: Final = 10_000_000  # a command tells Main of so much egress, the next record of less: a dial is not free
SLOW_STATEMENTS: Final = 5  # are shown, those that took the most time in all
SLOW_TEXT: Final = 200  # characters of each: enough to know it again
SPARK_CELLS: Final = 32  # of a curve in the terminal
ALERT_SHORT_SECONDS: Final = (
    15 * 60
)  # a quota is near if that holds all this time: an index that is rebuilt stands double so long
ALERT_LONG_SECONDS: Final = 60 * 60  # and on average over this time, so that a peak which returns within it does not ring
BREACH_SHORT_SECONDS: Final = 5 * 60  # a quota that is breached stops the application's writes: the windows are as short as they
BREACH_LONG_SECONDS: Final = 15 * 60  # can be with a look every few minutes
ALERT_RECOVERY_SHARE: Final = 0.02  # of the quota below a bound ends what rang above it: in between, nothing flaps
FORECAST_LOW_SHARE: Final = 0.60  # of the quota is used at least where a forecast rings: of an empty tier a slope says little
FORECAST_DAYS: Final = 7  # before it is full: a week to raise a quota, or to shorten an age
FORECAST_SERIOUS_DAYS: Final = 2
FORECAST_HOLD_SECONDS: Final = 60 * 60  # a forecast rings once it has said so for so long, as node-mixin's do
AWAY_HOLD_SECONDS: Final = 10 * 60  # a hosted database that restarts is back within it
SLOT_HOLD_SECONDS: Final = 15 * 60  # a subscriber that restarts catches up within it
SLOT_WAL_BYTES: Final = 64 * 10**6  # four segments: a slot that is read keeps less
SLOT_WAL_SHARE: Final = 0.10  # of the quota, where that is more: the disk of a hosted database is cut to its quota
SLOT_SERIOUS_SHARE: Final = 0.50
PAUSE_DAYS_LEFT: Final = 2  # before a provider pauses a project: five days of seven without a read that came through
PAUSE_SERIOUS_DAYS_LEFT: Final = 1
EXPIRY_DAYS: Final = 14  # what expires rings so long before; a leaf that renews itself has done it 30 days before
EXPIRY_SERIOUS_DAYS: Final = 3
AUTHORITY_EXPIRY_DAYS: Final = 90  # a new authority means that every client is enrolled anew
CERTIFICATE_LOOK_SECONDS: Final = 24 * 3600  # between two looks at a server's certificates, which change a few times a year
CERTIFICATE_LOOK_AGAIN_SECONDS: Final = 3600  # after one that saw nothing
ALERT_FAULT_DAYS: Final = 7  # a failure that is older, and that nobody has tried again, is not what the last migration did
RUN_GRACE_SHARE: Final = 0.5  # of its period a run may be late, so that one that was missed and caught up does not ring
JOB_LATE_SECONDS_MIN: Final = 6 * 3600  # since a job went well: one that runs every few minutes may once take hours
JOB_LATE_HOLD_SECONDS: Final = 60 * 60  # what was missed is caught up at once where `run` comes back, and may take so long
ALERT_RESOLVED_DAYS: Final = 7  # what is over is remembered so long, so that whoever was away does not tell it again
ALERT_CALM_SECONDS: Final = 6 * 3600  # of what came again, the end is told only after so long: it may come once more
ALERT_WAS_SECONDS: Final = 24 * 3600  # what rang for nobody and is over is still told for so long: longer than any quiet hours
ALERT_REMIND_SECONDS_MIN: Final = 3_600  # between two words about the same: more often is noise
ALERT_TRIES: Final = 3  # of one message to one target in one turn; the next turn tries again
ALERT_TRY_SECONDS: Final = 2  # before the second try, and double that before the third
ALERT_SEND_SECONDS: Final = 60  # one turn's messages take no longer: what hangs then is ended
ALERT_CLAIM_SECONDS: Final = 180  # who has said that he sends, and says no more, is taken for dead: well above the line before
ALERT_SHOWN: Final = 6  # of one message's notices are told in full, the others by a line each
ALERT_BODY_CHARS: Final = 1_800  # chats cut or refuse longer messages: the tightest that is common takes 2,000
AUDIT_LOOKED_AT: Final = 10_000  # newest notes in which the last run of each kind is looked for: weeks of a busy tier
KEEP_AWAKE_SECONDS: Final = 20 * 3600  # between two reads that came through: daily, however a schedule's minutes fall
KEEP_AWAKE_AGAIN_SECONDS: Final = 3600  # after one that did not
KEEP_AWAKE_TABLES: Final = 20  # tables are asked for a row until one has some
KEEP_AWAKE_READ_SECONDS: Final = 10  # that read is cut short after so long: a table's first row may lie behind many dead ones
BOARD_FRESH_SECONDS: Final = 5  # a page of tiers of one's own: who looks at it twice in a moment asks them once
BOARD_METERED_FRESH_SECONDS: Final = 60  # where a provider counts what a tier sends: five tables are 8 kB a look
BOARD_EGRESS_SHARE: Final = (
    0.10  # of that budget is sent at most, if somebody looks all month: many tables are looked at less often
)
BOARD_WAIT_SECONDS: Final = 3  # a page waits so long for tiers that are slow, then shows what they said last, and says so
BOARD_FIRST_WAIT_SECONDS: Final = 30  # where they have said nothing yet: three time-outs of one that is away
BOARD_GRACE_SECONDS: Final = 10  # beyond its time, for a look that took long and a page that waited: after it a figure is old
BOARD_NOTES: Final = 400  # newest notes of the audit that a page looks at
BOARD_MOVES: Final = 10  # it shows
BOARD_ACTIONS: Final = 15
BOARD_SEGMENTS: Final = 12
BOARD_DUE_TABLES: Final = 20  # whose rows that are old enough to move are estimated: a plan each, and no row is read
BOARD_DUE_STALE_SHARE: Final = 0.05  # of a table's rows may have changed since its statistics; then they say little of its oldest

NO_ROOM: Final = "so that no row was moved there"  # how a full destination is known again in what a run said of it
