-- The record of ARGV[1], flat, or nothing; and when it is forgotten, and its webhook sent, in milliseconds from now.
local id, now = ARGV[1], sweep_records()
local found = redis.call('HGETALL', record_of(id))
if #found == 0 then return {} end
local due = redis.call('ZSCORE', DUE, id)
return {found, tonumber(redis.call('ZSCORE', ENDS, id)) - now, due and math.max(0, tonumber(due) - now) or -1}
