"""The SPIFFE Workload API on the wire: its messages, a client, and who asks on a unix socket."""
