"""The embedded issuer: a Workload API server that attests workloads and issues SVIDs to them."""
