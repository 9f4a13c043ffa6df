-- Delete a job that no process has claimed. 1 when it was there.
local stream, bytes = KEYS[1], KEYS[2]
local claims = redis.pcall('XPENDING', stream, ARGV[1], ARGV[2], ARGV[2], 1)  -- an error: no group yet, so no claim
if not claims.err and #claims > 0 then return 0 end
if redis.call('XDEL', stream, ARGV[2]) == 0 then return 0 end
redis.call('DECRBY', bytes, ARGV[3])
return 1
