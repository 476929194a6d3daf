"""Every constant of `adaptive`, with its reason. They were set by the simulator; a change is to be tried there first."""

from typing import Final

WEIGHT_MAX: Final = 10_000  # what the data plane is given at most (model.Share)

WINDOW_SECONDS: Final = 0.25  # of the fast averages: a fault shows in two looks, and noise of one look does not
WINDOW_SAMPLES: Final = 10  # where so many take longer than the window they are the window: few samples are not forgotten
SLOW_SECONDS: Final = 5.0  # of the slow averages, by which the moderate grade is set
SLOW_SAMPLES: Final = 100  # their window where traffic is thin
ERROR_SAMPLES: Final = 400  # of the slow average of what fails: one in a hundred is to show

SHED_RATIO: Final = 3.0  # of the peers' latency: hardware twice as slow is well, +50 ms on a few ms is eleven times as slow
SHED_EXCESS_SECONDS: Final = 0.005  # above the peers' at least: no client feels less, and micro-latencies are ratios of noise
SHED_SAMPLES: Final = 3.0  # at least: fewer prove nothing
SHED_SIGMAS: Final = 4.0  # of the peers' spread over the root of the samples, 1 in 30,000 by chance and look,
SHED_LATE: Final = 0.5  # where so many of the samples look slow by themselves; else
SHED_SIGMAS_FEW: Final = 8.0  # of them: the mean of a few samples is that of the one that took long, in most work
CLIP_RATIO: Final = (
    20.0  # of the peers' latency: what one sample may say at most, so that one that waited for a lock sheds nobody
)

ERROR_ALLOWED: Final = 0.03  # of requests may fail without blame; and on top
ERROR_ALLOWED_FACTOR: Final = 4.0  # times the share that fails at the peers, which are not to be better by chance
ERROR_SCORE: Final = 1.6  # errors beyond what is allowed shed: 2 of 13 requests, or 3 of 46
ERROR_SCORE_RATE: Final = 0.01  # and at least so many times the requests of a second: where proof is cheap it may be better
ERROR_SCORE_USUAL: Final = 60.0  # and so many times the share that fails at the peers: what is usual comes in bunches
ERROR_SCORE_MOST: Final = 3.0  # times what sheds: a long fault is not remembered longer than a short one

STALL_SECONDS: Final = 0.15  # without an answer while requests wait
STALL_RATIO: Final = 12.0  # and so many times the peers' latency: answers that take long by nature are no stall
STALL_IN_FLIGHT: Final = 3  # requests that wait, at least, of a backend that is not shed: one may be a download

PILE: Final = 10  # more requests in flight than shortly before shed at once,
PILE_RATIO: Final = 6.0  # if they are so many times what its rate and the peers' latency make,
PILE_PEERS: Final = 4.0  # and so many times what has piled up at its peers: who waits for a thing that all need is not to blame
PILE_SECONDS: Final = 1.0  # in which more in flight becomes nothing new: connections that are held by nature are no pile

TRICKLE_SHARE: Final = 0.004  # of the traffic goes to one that is shed: below the 0.5 % that are promised
TRICKLE_PER_SECOND: Final = 1.2  # requests at least, where that share would be fewer: three of them have to show that it is well
TRICKLE_FAIR: Final = 0.125  # of its fair share at most, which in a large pool is less

STALE_SECONDS: Final = 1.5  # after it was shed: what ends then was begun before, and says nothing of a trickle
WELL_RATIO: Final = 2.5  # of the peers' latency and less is a sample that looks well; of a healthy one 92 % are (exponential)
WELL_SAMPLES: Final = 3  # samples that look well, and none that does not, begin the way back
WELL_ERRORS: Final = 1.6  # over the share that failed: so many good answers where only some had failed, 16 for 10 %
WELL_ERRORS_MOST: Final = 24
PATIENCE_SECONDS: Final = 3.0  # without a bad one stand for them where the trickle is thin
AGAIN: Final = (1.0, 1.5, 3.0, 6.0, 12.0, 16.0)  # times as much proof after so many tries in vain
RAMP_SECONDS: Final = 0.2  # between doublings: longer ones cost more in vain than they find out
RELAPSE_RATIO: Final = 2.5  # of the peers' latency on the way back: one in doubt is judged harder, a try in vain costs less
RELAPSE_SCORE: Final = 0.8  # errors: the first one, also while it is newly back
RELAPSE_SECONDS: Final = 5.0  # after the way back: what is shed again so soon has not been well
TRY_SECONDS: Final = (
    0.25  # for which a try in vain goes on, until its slow answers are seen: what it costs is so much of its level
)
TRY_COST: Final = 0.005  # of all requests may be slow for such tries: the slowest hundredth stays what it was
HOLD_SECONDS: Final = 30.0  # one that looks well at a trickle and is slow under load is tried again after so long at the latest
HOLD_UNWELL: Final = 4.0  # more samples that do not look well than do: it was not the load, and no hold is needed
SETTLED_SECONDS: Final = 10.0  # with its fair share, and its tries in vain are forgotten
IDLE_STEP_SECONDS: Final = 1.0  # without a request on the way back, and it goes on: nothing is harmed where nothing comes

GRADES: Final = (1.0, 0.8, 0.63, 0.5, 0.4)  # for one that is slower, by the inverse of how much; never less: it is not sick
GRADE_SAMPLES: Final = 100.0  # at least
GRADE_DOWN: Final = 1.35  # times what its grade allows it is slower before it goes down
GRADE_UP: Final = 1.2  # times as fast it is before it goes up; the gap between both keeps it from going to and fro
GRADE_EXCESS_SECONDS: Final = 0.001  # above its peers at least
GRADE_SECONDS: Final = 2.0  # between two changes of a grade: the first has to show what it did
