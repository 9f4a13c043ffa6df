-- Delete all that there is of a model version. KEYS: waiting, bulk, suspects, and whatever else it has.
for k = 1, 3 do
  for _, entry in ipairs(redis.call('XRANGE', KEYS[k], '-', '+')) do
    if entry[2][8] then end_flight(entry[2][8]) end
  end
end
redis.call('DEL', unpack(KEYS))
