"""The keys of a node's Redis.

One queue for each model version, KEY = ``model@version``. Nothing is kept on disk::

    shoal:{KEY}:waiting     stream  job (packed Job), claims (deaths so far), front
                                    fronts add; group "models" reads; an entry is deleted in the step that answers
                                    it, so its length is the depth
    shoal:{KEY}:bulk        stream  the same, of bulk jobs                     they fill what interactive ones leave
    shoal:{KEY}:suspects    stream  the same, of jobs whose process died       the supervisor moves them; executed alone
    shoal:{KEY}:bytes       number  bytes of the jobs in all three             with every add and delete
    shoal:{KEY}:claims      number  claims while bulk jobs waited              gives bulk its turn
    shoal:{KEY}:arrived     hash    gateway -> uses of its tickets that came   fronts add; goes with the gateway
    shoal:{KEY}:quarantine  hash    digest of an image -> packed Quarantined   the supervisor adds, an operator clears
    shoal:flight:{F}        hash    of a job that several may wait for: stream, entry, bytes, held (the number above),
                                    content, lifetime_ms, most (how its answer is kept); whoever submits adds, goes
                                    with the job, or a minute after the last deadline of those who wait
    shoal:waiters:{F}       hash    id -> front                                fronts add and delete; goes with it
    shoal:cache             hash    content -> packed Reply                    added in the step that answers
    shoal:cache:used        sorted  content -> last use (microseconds)         what was used longest ago goes first
    shoal:cache:ends        sorted  content -> its end (microseconds)          looked at with every use of the cache
    shoal:cache:bytes       number  bytes of the kept answers                  with every add and delete
    shoal:gateways          sorted  gateway -> last poll (milliseconds)        fronts add; seconds after the last poll
    shoal:replies:{FRONT}   stream  reply (packed Reply), to (ids of a flight) model processes add; the front reads and
                                    trims; expires a minute after the last reply
    shoal:ticket:{ID}       number  uses of a ticket                           fronts add; expires with the ticket

Asynchronous jobs, ID = ``incarnation.random``; times in milliseconds since the epoch, by Redis's own clock::

    shoal:job:{ID}          hash    the record: head (packed Head), status, created, ended, deadline, lifetime, model,
                                    webhook, left (images without an answer), answer:{JOB} (packed Reply), failure
                                    (packed Reply, or empty: the deadline), size; while it is queued: stream, held,
                                    group, entries (JSON: entry and bytes of each image); delivery, attempts, said
                                    a front adds it in the step that submits; changed in the step that answers
    shoal:jobs:ends         sorted  ID -> when it is forgotten                 every record; swept with every change
    shoal:jobs:open         sorted  ID -> deadline                             those that are queued
    shoal:jobs:due          sorted  ID -> next attempt                         those whose webhook is to be sent
    shoal:jobs:bytes        number  bytes of all records                       with every add and delete
    shoal:jobs:events       stream  id, status, model                          every change of a status; the courier
                                                                               reads, and deletes what it has counted
"""

from __future__ import annotations

GATEWAYS = "shoal:gateways"
JOB_EVENTS = "shoal:jobs:events"


def streams_of(key: str) -> tuple[str, str, str]:
    return f"shoal:{key}:waiting", f"shoal:{key}:bulk", f"shoal:{key}:suspects"


def bytes_of(key: str) -> str:
    return f"shoal:{key}:bytes"


def arrived_of(key: str) -> str:
    return f"shoal:{key}:arrived"


def quarantine_of(key: str) -> str:
    return f"shoal:{key}:quarantine"


def replies_of(front: str) -> str:
    return f"shoal:replies:{front}"


def claims_of(key: str) -> str:
    return f"shoal:{key}:claims"


def waiters_of(flight: str) -> str:
    return f"shoal:waiters:{flight}"


def ticket_of(ticket: str) -> str:
    return f"shoal:ticket:{ticket}"
