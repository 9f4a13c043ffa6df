-- End the job of ARGV[1] if it is queued: what no process has claimed is deleted. 1 when it was.
sweep_records()
if redis.call('HGET', record_of(ARGV[1]), 'status') ~= 'queued' then return 0 end
end_record(ARGV[1], 'cancelled')
return 1
