-- Write down an attempt to send the webhook of ARGV[1]: what is to become of it ('waiting', 'delivered' or 'failed'),
-- what its host said, and the milliseconds until the next attempt.
local id, delivery, said, pause = unpack(ARGV)
local key = record_of(id)
redis.call('ZREM', DUE, id)  -- first what a full Redis allows: a script that has written may go on
if redis.call('EXISTS', key) == 0 then return 0 end
redis.call('HINCRBY', key, 'attempts', 1)
redis.call('HSET', key, 'delivery', delivery, 'said', said)
if delivery == 'waiting' then return redis.call('ZADD', DUE, milliseconds() + tonumber(pause), id) end
return 1
