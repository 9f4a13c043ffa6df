-- Delete all that there is of a model version. KEYS: waiting, bulk, suspects, and whatever else it has. ARGV: its name,
-- and what its asynchronous jobs are answered with.
for _, id in ipairs(redis.call('ZRANGE', OPEN, 0, -1)) do
  if redis.call('HGET', record_of(id), 'model') == ARGV[1] then fail_record(id, ARGV[2]) end
end
for k = 1, 3 do
  for _, entry in ipairs(redis.call('XRANGE', KEYS[k], '-', '+')) do
    if entry[2][8] then end_flight(entry[2][8]) end
  end
end
redis.call('DEL', unpack(KEYS))
