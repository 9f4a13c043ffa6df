-- Delete the unclaimed jobs of a front that has died: nobody waits for them. Returns how many. A job in flight is
-- deleted when no other front waits for it.
local bytes, group, front, deleted = KEYS[#KEYS], ARGV[1], ARGV[2], 0

local function others_wait(flight)
  local _, waiters = names(flight)
  local found = redis.call('HGETALL', waiters)
  for i = 1, #found, 2 do
    if found[i + 1] == front then redis.call('HDEL', waiters, found[i]) end
  end
  return redis.call('HLEN', waiters) > 0
end

for k = 1, #KEYS - 1 do
  local claimed = {}
  local pending = redis.pcall('XPENDING', KEYS[k], group, '-', '+', 1000000)
  if not pending.err then
    for _, claim in ipairs(pending) do claimed[claim[1]] = true end
  end
  for _, entry in ipairs(redis.call('XRANGE', KEYS[k], '-', '+')) do
    local flight, dead = entry[2][8], entry[2][6] == front
    if flight then dead = not others_wait(flight) end
    if dead and not claimed[entry[1]] then
      redis.call('XDEL', KEYS[k], entry[1])
      redis.call('DECRBY', bytes, #entry[2][2])
      if flight then end_flight(flight) end
      deleted = deleted + 1
    end
  end
end
return deleted
