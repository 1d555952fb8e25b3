"""Who is calling: SPIFFE IDs, X.509- and JWT-SVIDs, the bundles they are verified with, and the authority that issues.

Pure; knows no policy.
"""
