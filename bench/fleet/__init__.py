"""How gateways and Consul grow with the number of workers: simulated workers behind real gateways and a real Consul."""
