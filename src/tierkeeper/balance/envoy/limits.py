"""Every limit of the data plane, named, with its reason."""

from typing import Final

# What clients may hold of it.
CONNECTIONS_MAX: Final = 50_000  # from clients, all pools together; where the limit of open files is lower, a third of that
HEADERS_KB: Final = 32  # of one request; servers behind take 8 to 16 by default, and tokens in cookies have grown
HEADERS_COUNT: Final = 100
HEADERS_SECONDS: Final = 10  # for the headers of a request to come: whoever sends a byte now and then is no client
IDLE_SECONDS: Final = 75  # a client's connection without a request; browsers hold one so long
STREAM_IDLE_SECONDS: Final = 300  # a request or a WebSocket in which nothing moves either way
CONCURRENT_STREAMS: Final = 100  # of one HTTP/2 connection
BUFFER_BYTES: Final = 256 * 1024  # of one connection, either way; a request with more body than this cannot be repeated

# What goes to the backends.
CONNECT_SECONDS: Final = 3  # a SYN that was lost is sent again after one second, and after two more
UPSTREAM_IDLE_SECONDS: Final = 1.5  # gunicorn closes a connection after 2, most after 5: a request must not meet that
CONNECTIONS_PER_POOL: Final = 100_000  # circuit breakers that open only where something runs away
PENDING_PER_POOL: Final = 10_000
RETRY_BUDGET_PERCENT: Final = 20  # of what is under way may be a repetition (Envoy)
RETRY_EARNED_PERCENT: Final = (
    15  # of the requests may be repeated over time (`budget`): with what was saved it stays within a fifth
)
RETRIES_AT_ONCE_MIN: Final = 50  # which may be however little is under way: a killed server fails all it had at once
RETRIES_SAVED_SECONDS: Final = 5  # what was not repeated in the last seconds may be later: enough for all that one server had
RETRIES_SAVED_MIN: Final = 50
RETRY_BACKOFF_SECONDS: Final = 0.005  # another host is asked, so there is little to wait for; waiting counts in the budget
RETRY_BACKOFF_MAX_SECONDS: Final = 0.1
HOST_TRIES: Final = 64  # draws for a host that had none of the tries yet; a small weight is drawn rarely
FAILURES: Final = 5  # in a row (502, 503, 504, resets, refused connections), and a backend is left out for a moment
EJECTION_SECONDS: Final = 1  # for the first time, and a multiple of it each time that follows
EJECTION_MAX_SECONDS: Final = 10
EJECTION_LOOK_SECONDS: Final = 0.25  # how late one may come back
KEEPALIVE_SECONDS: Final = 60  # of silence, and TCP asks whether the peer is there
KEEPALIVE_PROBE_SECONDS: Final = 10
KEEPALIVE_PROBES: Final = 3  # unanswered, and the connection is dead
UNACKNOWLEDGED_MILLISECONDS: Final = 90_000  # sent and not acknowledged for so long: the same, while data wait
RING_MIN: Final = 4_096  # entries: the shares of a few backends are even within some percent
RING_MAX: Final = 65_536  # and no weight makes it larger
VERDICT_SECONDS: Final = 0.1  # how often the plane asks its own verdict: a session ends so soon after the brain's word
VERDICT_FAILURES: Final = 1_000_000  # answers that do not come say nothing: only a 503 is a verdict

# Samples.
SAMPLES_PER_SECOND: Final = 2_000  # of all pools together: enough for the tail of each, and a few percent of one core
SAMPLES_KEPT: Final = 2_000  # of one backend between two observations; then the newest replace others at random
SAMPLE_PERCENT_FIRST: Final = 5.0  # until rates are known
SAMPLE_CHANGE: Final = 1.25  # a share that is off by less is not written anew
SAMPLE_BUFFER_BYTES: Final = 65_536
SAMPLE_FLUSH_SECONDS: Final = 0.1
BRAIN_SECONDS: Final = 1.0  # between two questions whether somebody reads; without an answer what waits for him is dropped
BRAIN_HEARTBEAT: Final = b"\xc0"  # such a question, and its answer: nothing, in MessagePack
SAMPLE_MESSAGE_BYTES: Final = 4 * 2**20  # of one message; what is longer does not come from our Envoy

# The process.
ADMIN_SECONDS: Final = 2.0  # for an answer on its own socket
READY_SECONDS: Final = 10.0  # to come up, or to take a change; 0.06 is usual
DRAIN_SECONDS: Final = 10  # what a port that left, or changed, has to end what it began
PARENT_SECONDS: Final = 12  # and an Envoy whose successor runs
STOP_SECONDS: Final = 10.0  # for what is under way when all of it stops
KILL_SECONDS: Final = 3.0  # after being asked to end
LOG_BYTES: Final = 4 * 2**20  # of its log, which begins anew then
OFFER_SECONDS: Final = 1.0  # before Envoy is offered again what it refused: a port that was taken may be free
RESOLVE_SECONDS: Final = 5.0  # between two looks at where the names of backends point
INOTIFY_SPARE: Final = 16  # instances that others of this user may need
