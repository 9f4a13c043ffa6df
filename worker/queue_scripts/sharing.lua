-- What other scripts begin with: flights (one job that several wait for) and the cache of answers.
local CACHE, USED, ENDS, HELD = 'shoal:cache', 'shoal:cache:used', 'shoal:cache:ends', 'shoal:cache:bytes'
local ENTRY_BYTES = 256  -- what an answer costs beside itself and its name, in four keys

local function microseconds()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function forget(content)
  redis.call('DECRBY', HELD, ENTRY_BYTES + #content + redis.call('HSTRLEN', CACHE, content))
  redis.call('HDEL', CACHE, content)
  redis.call('ZREM', USED, content)
  redis.call('ZREM', ENDS, content)
end

local function sweep(now)
  for _, content in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, 100)) do forget(content) end
end

local function recall(content)
  local ends = redis.call('ZSCORE', ENDS, content)
  if not ends then return false end
  local now = microseconds()
  if tonumber(ends) <= now then
    forget(content)
    return false
  end
  redis.call('ZADD', USED, now, content)
  return redis.call('HGET', CACHE, content)
end

local function keep(content, reply, lifetime_ms, most)
  local now, size = microseconds(), ENTRY_BYTES + #content + #reply
  sweep(now)
  if redis.call('HEXISTS', CACHE, content) == 1 then forget(content) end
  if size > most then return end
  while tonumber(redis.call('GET', HELD) or '0') + size > most do
    local oldest = redis.call('ZRANGE', USED, 0, 0)[1]
    if not oldest then return end  -- never for ever: a script that loops stops the whole node
    forget(oldest)
  end
  redis.call('HSET', CACHE, content, reply)
  redis.call('ZADD', USED, now, content)
  redis.call('ZADD', ENDS, now + lifetime_ms * 1000, content)
  redis.call('INCRBY', HELD, size)
end

local function names(flight)
  return 'shoal:flight:' .. flight, 'shoal:waiters:' .. flight
end

local function end_flight(flight)
  local key, waiters = names(flight)
  redis.call('DEL', key, waiters)
end

-- Answer all who wait, each front once, and keep the answer when it is to be kept.
local function land(flight, reply, is_kept, reply_lifetime, reply_cap)
  local key, waiters = names(flight)
  local fronts, found = {}, redis.call('HGETALL', waiters)
  for i = 1, #found, 2 do
    local ids = fronts[found[i + 1]] or {}
    table.insert(ids, found[i])
    fronts[found[i + 1]] = ids
  end
  for front, ids in pairs(fronts) do
    local replies = 'shoal:replies:' .. front
    redis.call('XADD', replies, 'MAXLEN', '~', reply_cap, '*', 'reply', reply, 'to', table.concat(ids, ' '))
    redis.call('PEXPIRE', replies, reply_lifetime)
  end
  if is_kept then
    local content, lifetime_ms, most = unpack(redis.call('HMGET', key, 'content', 'lifetime_ms', 'most'))
    if content then keep(content, reply, tonumber(lifetime_ms), tonumber(most)) end
  end
  end_flight(flight)
end

