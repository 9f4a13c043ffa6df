-- Take the jobs of a dead process back. They become suspects, which are executed alone; those that have now died alone
-- ARGV[3] times are handed back.
local waiting, bulk, suspects, bytes = unpack(KEYS)
local group, process, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local moved, culprits = 0, {}
for _, stream in ipairs({waiting, bulk, suspects}) do
  for _, pending in ipairs(redis.call('XPENDING', stream, group, '-', '+', 1000000, process)) do
    local found = redis.call('XRANGE', stream, pending[1], pending[1])
    redis.call('XACK', stream, group, pending[1])
    redis.call('XDEL', stream, pending[1])
    if found[1] then
      local fields = found[1][2]
      local job, claims, front = fields[2], tonumber(fields[4]) + 1, fields[6]
      if stream == suspects and claims > most then
        redis.call('DECRBY', bytes, #job)
        table.insert(culprits, job)
      else
        local flight = fields[8]
        if flight then
          local entry = redis.call('XADD', suspects, '*', 'job', job, 'claims', claims, 'front', front, 'flight', flight)
          local key = names(flight)
          if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'stream', suspects, 'entry', entry) end
        else
          redis.call('XADD', suspects, '*', 'job', job, 'claims', claims, 'front', front)
        end
        moved = moved + 1
      end
    end
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, group, process)
end
return {moved, culprits}
