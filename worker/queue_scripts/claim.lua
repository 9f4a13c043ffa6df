-- Up to ARGV[3] jobs: a suspect alone, else interactive ones, filled up with bulk. Bulk has a share of one in ARGV[4]
-- of every batch; where a batch is smaller than that, it goes first at every so-manyth claim.
local waiting, bulk, suspects, claims = unpack(KEYS)
local group, process, count, turn = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function read(stream, most)
  local got = redis.call('XREADGROUP', 'GROUP', group, process, 'COUNT', most, 'STREAMS', stream, '>')
  return got and got[1][2] or {}
end

local found = read(suspects, 1)
if #found > 0 then return {{suspects, found}} end
local share = math.floor(count / turn)
if share == 0 and redis.call('XLEN', bulk) > 0 and redis.call('INCR', claims) % turn == 0 then share = count end
local first = share > 0 and read(bulk, share) or {}
local second, third = {}, {}
if #first < count then second = read(waiting, count - #first) end
if #first + #second < count then third = read(bulk, count - #first - #second) end
return {{bulk, first}, {waiting, second}, {bulk, third}}
