-- Answer all who wait for a job that is no longer in the queue. KEYS: the reply streams of its waiters. ARGV: flight,
-- reply, which is an error, reply lifetime, reply cap, record, and the job's id there.
if ARGV[5] ~= '' then answer_record(ARGV[5], ARGV[6], ARGV[2], false) end
if ARGV[1] ~= '' then return land(ARGV[1], ARGV[2], false, ARGV[3], ARGV[4]) end
for _, key in ipairs(KEYS) do
  redis.call('XADD', key, 'MAXLEN', '~', ARGV[4], '*', 'reply', ARGV[2])
  redis.call('PEXPIRE', key, ARGV[3])
end
