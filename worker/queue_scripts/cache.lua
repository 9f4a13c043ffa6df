-- The bytes of the kept answers, when those whose time is over are gone.
sweep(microseconds())
return tonumber(redis.call('GET', HELD) or '0')
