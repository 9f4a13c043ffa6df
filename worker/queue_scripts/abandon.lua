-- Delete the unclaimed jobs of a front that has died: nobody waits for them. Returns how many.
local bytes, group, front, deleted = KEYS[#KEYS], ARGV[1], ARGV[2], 0
for k = 1, #KEYS - 1 do
  local claimed = {}
  local pending = redis.pcall('XPENDING', KEYS[k], group, '-', '+', 1000000)
  if not pending.err then
    for _, claim in ipairs(pending) do claimed[claim[1]] = true end
  end
  for _, entry in ipairs(redis.call('XRANGE', KEYS[k], '-', '+')) do
    if entry[2][6] == front and not claimed[entry[1]] then
      redis.call('XDEL', KEYS[k], entry[1])
      redis.call('DECRBY', bytes, #entry[2][2])
      deleted = deleted + 1
    end
  end
end
return deleted
