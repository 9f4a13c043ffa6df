-- What the scripts of asynchronous jobs begin with. A record changes in the step that changes its queue.
local ENDS, OPEN, DUE = 'shoal:jobs:ends', 'shoal:jobs:open', 'shoal:jobs:due'
local RECORD_BYTES, EVENTS = 'shoal:jobs:bytes', 'shoal:jobs:events'
local MOST_EVENTS = 100000  -- the courier deletes long before; this bounds the stream of one that is away

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function record_of(id)
  return 'shoal:job:' .. id
end

local function grow(id, size)
  redis.call('HINCRBY', record_of(id), 'size', size)
  redis.call('INCRBY', RECORD_BYTES, size)
end

local function tell(id, status)
  local model = redis.call('HGET', record_of(id), 'model')
  redis.call('XADD', EVENTS, 'MAXLEN', '~', MOST_EVENTS, '*', 'id', id, 'status', status, 'model', model)
end

-- Delete those of its images that no process has claimed.
local function take_back(id)
  local key = record_of(id)
  local stream, held, group, entries = unpack(redis.call('HMGET', key, 'stream', 'held', 'group', 'entries'))
  if not entries then return end
  for _, image in ipairs(cjson.decode(entries)) do
    local entry, size = image[1], image[2]
    local claims = redis.pcall('XPENDING', stream, group, entry, entry, 1)  -- an error: no group yet, so no claim
    if (claims.err or #claims == 0) and redis.call('XDEL', stream, entry) == 1 then
      redis.call('DECRBY', held, size)
    end
  end
  redis.call('HDEL', key, 'stream', 'held', 'group', 'entries')
end

local function end_record(id, status)
  local key, now = record_of(id), milliseconds()
  take_back(id)
  redis.call('HSET', key, 'status', status, 'ended', now)
  redis.call('ZREM', OPEN, id)
  redis.call('ZADD', ENDS, now + tonumber(redis.call('HGET', key, 'lifetime')), id)
  if status ~= 'cancelled' and redis.call('HGET', key, 'webhook') ~= '' then
    redis.call('HSET', key, 'delivery', 'waiting')
    redis.call('ZADD', DUE, now, id)
  end
  tell(id, status)
end

local function fail_record(id, reply)
  redis.call('ZREM', OPEN, id)  -- first what a full Redis allows: a script that has written may go on
  redis.call('HSET', record_of(id), 'failure', reply)
  end_record(id, 'failed')
end

-- Take the answer to one image. Whoever has ended already takes none.
local function answer_record(id, image, reply, is_good)
  local key = record_of(id)
  if redis.call('HGET', key, 'status') ~= 'queued' then return end
  if redis.call('HSETNX', key, 'answer:' .. image, reply) == 0 then return end
  grow(id, #reply)
  if not is_good then
    fail_record(id, reply)
  elseif redis.call('HINCRBY', key, 'left', -1) == 0 then
    end_record(id, 'done')
  end
end

local function forget_record(id)
  local key = record_of(id)
  redis.call('ZREM', ENDS, id)  -- as above
  take_back(id)
  redis.call('DECRBY', RECORD_BYTES, redis.call('HGET', key, 'size') or 0)
  redis.call('DEL', key)
  for _, set in ipairs({ENDS, OPEN, DUE}) do redis.call('ZREM', set, id) end
end

-- Fail what is late, and forget what has had its time.
local function sweep_records()
  local now = milliseconds()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', OPEN, '-inf', now, 'LIMIT', 0, 100)) do fail_record(id, '') end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, 100)) do forget_record(id) end
  return now
end

