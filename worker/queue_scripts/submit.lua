-- Append a job, or say why not: 'full', 'spent' (its ticket) or 'quarantined' (its image). All of it or nothing.
local waiting, bulk, suspects, bytes, quarantine, arrived, ticket = unpack(KEYS)
local lane, capacity, capacity_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local job, front, digest, gateway = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local uses, ticket_lifetime = tonumber(ARGV[8]), ARGV[9]

if gateway ~= '' then redis.call('HINCRBY', arrived, gateway, 1) end
local depth = redis.call('XLEN', waiting) + redis.call('XLEN', bulk) + redis.call('XLEN', suspects)
if redis.call('HEXISTS', quarantine, digest) == 1 then return {'quarantined', depth} end
local held = tonumber(redis.call('GET', bytes) or '0')
if depth >= capacity or (depth > 0 and held + #job > capacity_bytes) then return {'full', depth} end
if uses > 0 then
  local used = redis.call('INCR', ticket)
  if used == 1 then redis.call('PEXPIRE', ticket, ticket_lifetime) end
  if used > uses then return {'spent', depth} end
end
local stream = lane == 'bulk' and bulk or waiting
local entry = redis.call('XADD', stream, '*', 'job', job, 'claims', '0', 'front', front)
redis.call('INCRBY', bytes, #job)
return {entry, depth + 1}
