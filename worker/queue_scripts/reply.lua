-- Answer all who wait for a flight whose job is no longer in the queue. ARGV: flight, reply, reply lifetime, reply cap.
land(ARGV[1], ARGV[2], false, ARGV[3], ARGV[4])
