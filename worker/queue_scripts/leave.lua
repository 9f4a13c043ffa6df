-- One waits no longer for a flight; when it was the last, the job is deleted unless a process has claimed it.
-- ARGV: group, flight, id. Returns 'shared' while others wait, 'queued' when the job was deleted, else 'claimed'.
local group, flight, id = ARGV[1], ARGV[2], ARGV[3]
local key, waiters = names(flight)
redis.call('HDEL', waiters, id)
if redis.call('HLEN', waiters) > 0 then return 'shared' end
local stream, entry, size, held = unpack(redis.call('HMGET', key, 'stream', 'entry', 'bytes', 'held'))
if not stream then return 'claimed' end
local claims = redis.pcall('XPENDING', stream, group, entry, entry, 1)  -- an error: no group yet, so no claim
if not claims.err and #claims > 0 then return 'claimed' end
if redis.call('XDEL', stream, entry) == 1 then redis.call('DECRBY', held, size) end
end_flight(flight)
return 'queued'
