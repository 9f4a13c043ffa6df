-- Append the jobs of a request, or say why not: 'full', 'spent' (its ticket) or 'quarantined' (an image, and which).
-- All of it or nothing. An image whose answer is kept needs no job, nor does one that is in flight: it joins.
-- ARGV: lane, capacity, bytes, front, gateway, uses, ticket lifetime, lifetime and bytes of kept answers, the longest
-- wait, then for each image: its id, digest, flight, content (when a kept answer will do), name to keep it by, and job.
-- Jobs that are '' are only looked for: 'ok' when nothing needs to be submitted, else 'incomplete', which binds nothing.
local waiting, bulk, suspects, bytes, quarantine, arrived, ticket = unpack(KEYS)
local lane, capacity, capacity_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local front, gateway, uses, ticket_lifetime = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local lifetime_ms, most, longest_wait = ARGV[8], ARGV[9], tonumber(ARGV[10])
local FIRST, EACH = 11, 6

local depth = redis.call('XLEN', waiting) + redis.call('XLEN', bulk) + redis.call('XLEN', suspects)
local quarantined, outcomes, begun, jobs, size, incomplete = 0, {}, {}, 0, 0, false
for i = FIRST, #ARGV, EACH do
  local digest, flight, content, job = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 5]
  local number = #outcomes + 1
  if quarantined == 0 and redis.call('HEXISTS', quarantine, digest) == 1 then quarantined = number end
  local reply = content ~= '' and recall(content)
  if reply then
    outcomes[number] = {'kept', reply}
  elseif flight ~= '' and (begun[flight] or redis.call('EXISTS', (names(flight))) == 1) then
    outcomes[number] = {'joined', ''}
  else
    outcomes[number] = {'', ''}
    begun[flight] = true
    jobs, size = jobs + 1, size + #job
    incomplete = incomplete or job == ''
  end
end

if incomplete and quarantined == 0 then return {'incomplete', depth, outcomes} end
if gateway ~= '' then redis.call('HINCRBY', arrived, gateway, 1) end
if quarantined > 0 then return {'quarantined', depth, quarantined} end
if jobs > 0 then
  local held = tonumber(redis.call('GET', bytes) or '0')
  if depth + jobs > capacity or (depth > 0 and held + size > capacity_bytes) then return {'full', depth, 0} end
end
if uses > 0 then
  local used = redis.call('INCR', ticket)
  if used == 1 then redis.call('PEXPIRE', ticket, ticket_lifetime) end
  if used > uses then return {'spent', depth, 0} end
end

for number, outcome in ipairs(outcomes) do
  local i = FIRST + (number - 1) * EACH
  local id, flight, kept_as, job = ARGV[i], ARGV[i + 2], ARGV[i + 4], ARGV[i + 5]
  if outcome[1] == '' then
    local stream = lane == 'bulk' and bulk or waiting
    if flight == '' then
      outcome[2] = redis.call('XADD', stream, '*', 'job', job, 'claims', '0', 'front', front)
    else
      outcome[2] = redis.call('XADD', stream, '*', 'job', job, 'claims', '0', 'front', front, 'flight', flight)
      redis.call('HSET', (names(flight)), 'stream', stream, 'entry', outcome[2], 'bytes', #job, 'held', bytes,
        'content', kept_as, 'lifetime_ms', lifetime_ms, 'most', most)
    end
    redis.call('INCRBY', bytes, #job)
  end
  if flight ~= '' and outcome[1] ~= 'kept' then
    local key, waiters = names(flight)
    redis.call('HSET', waiters, id, front)
    if redis.call('PTTL', waiters) < longest_wait then
      redis.call('PEXPIRE', key, longest_wait)
      redis.call('PEXPIRE', waiters, longest_wait)
    end
  end
end
return {'ok', depth + jobs, outcomes}
