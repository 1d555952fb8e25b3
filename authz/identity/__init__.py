"""Who is calling: SPIFFE IDs, X.509-SVIDs and the authority that issues them. Pure; knows no policy."""
