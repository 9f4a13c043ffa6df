-- Reply, acknowledge and delete. ARGV: group, reply lifetime, reply cap, then for each job: entry, bytes, reply, flight,
-- whether it is an answer to keep, and no error, the record it is for and the job's id there, number of waiters, their
-- key numbers.
local stream, bytes = KEYS[1], KEYS[2]
local i, answered = 4, 0
while i <= #ARGV do
  local entry, size, reply, flight, kept, record, id, waiters = unpack(ARGV, i, i + 7)
  if redis.call('XACK', stream, ARGV[1], entry) == 1 then
    if redis.call('XDEL', stream, entry) == 1 then redis.call('DECRBY', bytes, size) end
    if flight ~= '' then land(flight, reply, kept == '1', ARGV[2], ARGV[3]) end
    if record ~= '' then answer_record(record, id, reply, kept == '1') end
    for w = 1, waiters do
      local key = KEYS[tonumber(ARGV[i + 7 + w])]
      redis.call('XADD', key, 'MAXLEN', '~', ARGV[3], '*', 'reply', reply)
      redis.call('PEXPIRE', key, ARGV[2])
    end
    answered = answered + 1
  end
  i = i + 8 + waiters
end
return answered
