-- The load of some model versions, as one gateway may use it: it gets an equal share of the free slots.
-- KEYS: the polling gateways, then for each model version: waiting, bulk, suspects, arrived.
-- Returns for each: jobs, bulk jobs, slots, slots for bulk, and how many uses of the gateway's tickets have arrived.
local gateways, gateway, lifetime = KEYS[1], ARGV[1], tonumber(ARGV[2])
local capacity, bulk_capacity = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', gateways, '-inf', now - lifetime)) do
  for k = 2, #KEYS, 4 do redis.call('HDEL', KEYS[k + 3], gone) end
end
redis.call('ZREMRANGEBYSCORE', gateways, '-inf', now - lifetime)
if gateway ~= '' then redis.call('ZADD', gateways, now, gateway) end
local sharers = math.max(1, redis.call('ZCARD', gateways))
local names, rank = redis.call('ZRANGE', gateways, 0, -1), 0
table.sort(names)  -- by name, so that a gateway keeps its place
for n, name in ipairs(names) do if name == gateway then rank = n - 1 end end

local function share(free)
  if free <= 0 then return 0 end
  return math.max(1, math.floor(free / sharers) + (rank < free % sharers and 1 or 0))  -- nobody starves by its name
end

local loads = {}
for k = 2, #KEYS, 4 do
  local bulk = redis.call('XLEN', KEYS[k + 1])
  local depth = redis.call('XLEN', KEYS[k]) + bulk + redis.call('XLEN', KEYS[k + 2])
  local arrived = gateway ~= '' and redis.call('HGET', KEYS[k + 3], gateway) or '0'
  table.insert(loads, {depth, bulk, share(capacity - depth), share(bulk_capacity - depth), tonumber(arrived or '0')})
end
return loads
