-- Up to ARGV[3] jobs: a suspect alone, else interactive ones, filled up with bulk; every ARGV[4]th time bulk first.
local waiting, bulk, suspects, claims = unpack(KEYS)
local group, process, count, turn = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function read(stream, most)
  local got = redis.call('XREADGROUP', 'GROUP', group, process, 'COUNT', most, 'STREAMS', stream, '>')
  return got and got[1][2] or {}
end

local found = read(suspects, 1)
if #found > 0 then return {{suspects, found}} end
local first, second = waiting, bulk
if redis.call('XLEN', bulk) > 0 and redis.call('INCR', claims) % turn == 0 then first, second = bulk, waiting end
local some = read(first, count)
local more = {}
if #some < count then more = read(second, count - #some) end
return {{first, some}, {second, more}}
