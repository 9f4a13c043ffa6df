-- Append the images of an asynchronous job and write its record, or say why not: 'crowded' (too many records), or what
-- submitting says. All of it or nothing; a record that is there already stays as it is.
-- ARGV: id, head, lifetime, milliseconds until its deadline, webhook, model, group, most records, most bytes of them,
-- then what submitting takes, whose tenth word is followed by six for each image, the job last.
local FIRST, BEFORE, EACH = 10, 10, 6
local id, head, lifetime, remaining, webhook, model, group, most, most_bytes = unpack(ARGV, 1, FIRST - 1)
local key, now = record_of(id), sweep_records()
if redis.call('EXISTS', key) == 1 then return {'ok', -1, {}} end
local crowded = redis.call('ZCARD', ENDS) >= tonumber(most)
if crowded or tonumber(redis.call('GET', RECORD_BYTES) or '0') >= tonumber(most_bytes) then return {'crowded', 0, 0} end

local rest = {}
for i = FIRST, #ARGV do rest[#rest + 1] = ARGV[i] end
local outcome = submit(KEYS, rest)
if outcome[1] ~= 'ok' then return outcome end

local entries = {}
for number, image in ipairs(outcome[3]) do entries[number] = {image[2], #rest[BEFORE + number * EACH]} end
local stream = rest[1] == 'bulk' and KEYS[2] or KEYS[1]
local deadline = now + tonumber(remaining)
redis.call('HSET', key, 'head', head, 'status', 'queued', 'created', now, 'deadline', deadline, 'lifetime', lifetime,
  'model', model, 'webhook', webhook, 'left', #entries, 'size', 0, 'stream', stream, 'held', KEYS[4], 'group', group,
  'entries', cjson.encode(entries))
grow(id, 512 + #head + #webhook)
redis.call('ZADD', OPEN, deadline, id)
redis.call('ZADD', ENDS, deadline + tonumber(lifetime), id)
tell(id, 'queued')
return outcome
