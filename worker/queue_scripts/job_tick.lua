-- What the courier has to do: the first ARGV[1] webhooks with the milliseconds until each is due, and those until the
-- next deadline, or -1; and how many jobs are queued, and webhooks waiting.
local now = sweep_records()
local due, found = {}, redis.call('ZRANGE', DUE, 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
for i = 1, #found, 2 do table.insert(due, {found[i], math.max(0, tonumber(found[i + 1]) - now)}) end
local late = redis.call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')[2]
late = late and math.max(0, tonumber(late) - now) or -1
return {due, late, redis.call('ZCARD', OPEN), redis.call('ZCARD', DUE)}
